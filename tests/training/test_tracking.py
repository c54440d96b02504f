import os
from pathlib import Path

import numpy as np

from lungunet.training.tracking import TensorBoardLog


def test_a_slice_whose_name_is_not_utf_8_is_shown(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    log = TensorBoardLog(tmp_path, about=name)
    log.add_picture(f"val/{name}", np.zeros((4, 4, 3), np.uint8), 1)
    log.close()
    content = next(tmp_path.iterdir()).read_bytes()
    assert rb"val/caf\udce9" in content
