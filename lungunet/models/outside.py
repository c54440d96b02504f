"""The only door to segmentation-models-pytorch and timm: imported inside functions, it takes 2 s.

Both import torchvision, which stops with an error of its own where it does not fit torch.
"""

from lungunet.errors import LungUNetError
from lungunet.models.torch_errors import first_line

try:
    import segmentation_models_pytorch as smp
    import segmentation_models_pytorch.encoders as smp_encoders
    import timm
    import timm.layers
    import timm.models
    from segmentation_models_pytorch.encoders._base import EncoderMixin
except Exception as err:  # packages that do not fit fail in any way
    raise LungUNetError(  # no ValueError: no file, setting or model is to blame
        f"the encoders do not load ({type(err).__name__}: {first_line(err)}). Mostly torchvision "
        "was built for another torch. 'lungunet doctor' says how to mend it."
    ) from err

__all__ = ["EncoderMixin", "smp", "smp_encoders", "timm"]
