"""Files to tensors: codec, readers, manifests, input contract, augmentation, dataset."""
