"""A real PACS for tests: Orthanc of Debian, on loopback alone, with a store of its own."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")

IS_THERE = bool(shutil.which("Orthanc") and shutil.which("cc") and _PLUGIN.exists())

# This Orthanc listens on all addresses, and no setting of it says otherwise: what it binds is
# narrowed to loopback here. That it takes requests of this machine alone stays on too.
_LOOPBACK = """
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <netinet/in.h>
#include <sys/socket.h>

int bind(int fd, const struct sockaddr *address, socklen_t size)
{
    int (*real)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "bind");
    if (address->sa_family != AF_INET)
        return real(fd, address, size);
    struct sockaddr_in narrow = *(const struct sockaddr_in *)address;
    narrow.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return real(fd, (const struct sockaddr *)&narrow, sizeof narrow);
}
"""


@contextmanager
def running_orthanc(folder: Path, **settings):
    """Yield the address of its DICOMweb service, and the process."""
    folder.mkdir(parents=True)
    (folder / "loopback.c").write_text(_LOOPBACK)
    shim = folder / "loopback.so"
    command = ["cc", "-shared", "-fPIC", "-o", shim, folder / "loopback.c", "-ldl"]
    subprocess.run(command, check=True)
    port = settings.setdefault("HttpPort", _free_port())
    config = {
        **{"StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db")},
        **{"DicomServerEnabled": False, "RemoteAccessAllowed": False},
        **{"AuthenticationEnabled": False, "Plugins": [str(_PLUGIN)]},
        **{"DicomWeb": {"Enable": True, "Root": "/dicom-web/"}},
        **settings,
    }
    (folder / "orthanc.json").write_text(json.dumps(config))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            ["Orthanc", folder / "orthanc.json"],
            stdout=log,
            stderr=log,
            env={**os.environ, "LD_PRELOAD": str(shim)},
        )
    try:
        _wait(port, process, folder / "log")
        yield f"http://127.0.0.1:{port}/dicom-web", process
    finally:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait(port: int, process: subprocess.Popen, log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(log.read_text())


def ask(address: str):
    """Ask for JSON, by no code of ours."""
    request = urllib.request.Request(address, headers={"Accept": "application/dicom+json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
        return json.loads(answer.read() or b"[]")
