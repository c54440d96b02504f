"""The two lists that most trainings here are of."""

import pytest

import lungunet
from lungunet import LungCTDataset


@pytest.fixture(scope="module")
def train(split: lungunet.Split) -> LungCTDataset:
    return LungCTDataset(split.train, transform=lungunet.train_transform(), size=32)


@pytest.fixture(scope="module")
def val(split: lungunet.Split, train: LungCTDataset) -> LungCTDataset:
    return LungCTDataset(split.val, contract=train.contract)
