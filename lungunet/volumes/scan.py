"""What a scan is on disk: a file that holds it whole, or the slices of a DICOM series."""

import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from lungunet.errors import ConfigError, DataError, counted
from lungunet.volumes.dicom import Slice
from lungunet.volumes.stack import say_steps


@dataclass(frozen=True)
class Remote:
    """A series of a PACS.

    Parameters
    ----------
    server : address of its DICOMweb service, without credentials
    study, series : UIDs
    instances : UIDs of the files that are slices of the scan
    is_whole : whether the series has no others
    """

    server: str
    study: str
    series: str = ""
    instances: tuple[str, ...] = ()
    is_whole: bool = False


@dataclass(frozen=True)
class Scan(os.PathLike[str]):
    """One scan, as :func:`find_volumes` finds it and :func:`read_volume` reads it.

    Parameters
    ----------
    path : the volume file; of a DICOM series the folder that holds its slices, or a single slice
    name : what tables and output files call it
    slices : of a DICOM series; none of a file that is a whole volume
    error : why it cannot be used, where that is known before it is read
    series : of an archive the one that is meant; None where there is but one
    remote : where it is fetched from while it is read; None of what is here
    """

    path: Path
    name: str
    slices: tuple[Slice, ...] = ()
    error: DataError | ConfigError | None = None
    series: str | None = None
    remote: Remote | None = None

    @property
    def id(self) -> str:
        """Of a DICOM series: eight letters that say nothing of the patient, always the same."""
        if self.remote is not None:
            return short_id(self.remote.series)
        return short_id(self.slices[0].series) if self.slices else ""

    def __fspath__(self) -> str:
        """Return the path, for whoever wants one."""
        return str(self.path)

    def __str__(self) -> str:
        """Return the path, or server and short id of the series: what messages call it."""
        if self.remote is not None:
            return f"{self.remote.server}: series {self.path.name}"
        return str(self.path)

    def describe(self) -> str:
        """Say in one line what tells a series from others."""
        first, steps = self.slices[0], say_steps(self.slices)
        across = "x".join(f"{mm:g}" for mm in first.spacing[::-1])
        parts = [
            f"{counted(len(self.slices), 'slice')} of {first.size[1]}x{first.size[0]}",
            f"pixels of {across} mm",
            *([steps] if steps else []),
            *([f"{first.thickness_mm:g} mm thick"] if first.thickness_mm else []),
            *([f"kernel {first.kernel}"] if first.kernel else []),
            *([f"'{first.description}'"] if first.description else []),
        ]
        return f"{self.id}: {', '.join(parts)}"


def short_id(series: str) -> str:
    """Return an id that says nothing of the patient and is the same every time."""
    return sha256(series.encode()).hexdigest()[:8]
