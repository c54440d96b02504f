"""What doctor looks at: packages that do not fit are named, and a broken torch does not stop it."""

import getpass
import json
import platform
import sys
from pathlib import Path

import pytest
import torch

from lungunet import doctor as health
from lungunet.doctor import check_installation
from lungunet.errors import ConfigError


def pretend_installed(monkeypatch: pytest.MonkeyPatch, **versions: str | None) -> None:
    """Pretend that packages are installed in other versions, or not at all (None)."""
    really = health.installed
    named = {name.replace("_", "-"): found for name, found in versions.items()}
    monkeypatch.setattr(
        health, "installed", lambda name: named[name] if name in named else really(name)
    )


@pytest.fixture(scope="module")
def here() -> health.Health:
    return check_installation()


class TestHere:
    """The machine that runs the tests is in order."""

    def test_nothing_is_broken(self, here: health.Health) -> None:
        assert here.problems == ()
        assert here.versions["torch"] in (torch.__version__, torch.__version__.split("+")[0])
        assert here.missing_extras == {}
        assert 0 < (here.step_s or 0) < 600
        assert 0 < (here.builtin_s or 0) < 600

    def test_what_it_would_choose(self, here: health.Health) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        assert here.choices["device"].value == device
        assert set(here.choices) == {"device", "precision", "workers"}
        assert here.threads == torch.get_num_threads()
        assert here.cores is not None
        assert here.cores >= 1

    def test_what_is_free(self, here: health.Health) -> None:
        assert here.disk_free_bytes > 0
        if sys.platform == "linux":
            assert here.memory_bytes is not None
            assert here.memory_free_bytes is not None
            assert 0 < here.memory_free_bytes <= here.memory_bytes

    def test_it_is_json_and_names_nobody(self, here: health.Health) -> None:
        text = json.dumps(here.to_dict(), allow_nan=False)
        for name in (platform.node(), str(Path.home()), str(Path.cwd())):
            assert name not in text
        if len(getpass.getuser()) > 4:  # "root" is in many words
            assert getpass.getuser() not in text


@pytest.mark.parametrize(
    ("versions", "problem"),
    [
        (
            {"opencv_python": "4.10.0"},
            "opencv-python and opencv-python-headless are installed together and overwrite each "
            "other. Run 'pip uninstall -y opencv-python opencv-python-headless', then 'pip install "
            "opencv-python-headless'.",
        ),
        (
            {"albumentations": "3.0.1"},
            "albumentations is 3.0.1, lungunet needs <2.1,>=2.0.8. "
            "Run 'pip install \"albumentations<2.1,>=2.0.8\"'.",
        ),
        (
            {"albumentations": "2.0.7"},
            "albumentations is 2.0.7, lungunet needs <2.1,>=2.0.8. "
            "Run 'pip install \"albumentations<2.1,>=2.0.8\"'.",
        ),
        (
            {"safetensors": None},
            "safetensors is missing, lungunet needs >=0.5. Run 'pip install \"safetensors>=0.5\"'.",
        ),
        (
            {"albumentationsx": "2.0.9"},
            "albumentationsx stands in the place of albumentations. Run 'pip uninstall -y "
            "albumentationsx', then 'pip install --force-reinstall "
            '"albumentations>=2.0.8,<2.1"\'.',
        ),
    ],
)
def test_packages_that_do_not_fit(
    monkeypatch: pytest.MonkeyPatch, versions: dict[str, str | None], problem: str
) -> None:
    pretend_installed(monkeypatch, **versions)
    assert health._package_problems() == [problem]


def test_a_torchvision_of_another_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"torchvision": ["numpy", "torch (==2.14.0)", 'scipy ; extra == "scipy"']}
    monkeypatch.setattr(health, "requires", lambda package: asked.get(package, []))
    pretend_installed(monkeypatch, torch="2.15.0+cu130")
    expected = (
        "torch is 2.15.0+cu130, torchvision needs ==2.14.0. Run 'pip install \"torch==2.14.0\"'."
    )
    assert health._package_problems() == [expected]
    pretend_installed(monkeypatch, torch="2.15.0+cpu")
    (problem,) = health._package_problems()
    assert problem.endswith(
        "Run 'pip install --index-url https://download.pytorch.org/whl/cpu \"torch==2.14.0\"'."
    )
    pretend_installed(monkeypatch, torch="2.14.0+cpu")
    assert health._package_problems() == []


@pytest.mark.parametrize(
    ("found", "sign", "bound", "holds"),
    [
        ("2.6.0+cu124", ">=", "2.6", True),
        ("2.6", ">=", "2.6.0", True),
        ("2.10", ">", "2.9.1", True),
        ("2.1.0", "<", "2.1", False),
        ("2.0.9", "<", "2.1", True),
        ("1.9", ">=", "1.10", False),
        ("3.0.0rc1", "<=", "3", True),
        ("5", "==", "5.0.0", True),
        ("5.0.0.93", "==", "5", False),
    ],
)
def test_versions_are_numbers(found: str, sign: str, bound: str, holds: bool) -> None:
    assert health._satisfies(found, sign, bound) == holds


class TestBroken:
    def test_torch_that_does_not_start(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail() -> None:
            raise OSError("/home/ann/.venv/lib/libtorch_cpu.so: cannot open shared object file")

        monkeypatch.setattr(health, "_choose", fail)
        sick = check_installation()
        assert sick.problems == (
            "torch does not start: OSError: libtorch_cpu.so: cannot open shared object file. "
            "Install lungunet into a new environment.",
        )
        assert (sick.choices, sick.threads, sick.weights_cached, sick.step_s) == (
            {},
            None,
            {},
            None,
        )
        assert sick.versions["torch"] is not None

    @pytest.mark.parametrize(
        ("torch_is", "index"),
        [
            ("2.14.1+cpu", "--index-url https://download.pytorch.org/whl/cpu "),
            ("2.14.1+cu130", ""),
            ("2.14.1", ""),
        ],
    )
    def test_a_torchvision_that_does_not_fit_is_one_fault(
        self, monkeypatch: pytest.MonkeyPatch, unfit_torchvision: None, torch_is: str, index: str
    ) -> None:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)  # which needs no torchvision
        pretend_installed(monkeypatch, torch=torch_is)
        sick = check_installation()
        assert sick.problems == (
            "the encoders do not load: RuntimeError: operator torchvision::nms does not exist. "
            "Mostly torchvision was built for another torch: 'pip install --force-reinstall "
            f"{index}torch torchvision' brings two that fit.",
        )
        assert (sick.weights_cached, sick.builtin_s, sick.step_s) == ({}, None, None)

    def test_a_torch_of_another_version_is_one_fault(
        self, monkeypatch: pytest.MonkeyPatch, unfit_torchvision: None
    ) -> None:
        asked = {"torchvision": ["torch==2.14.0"]}
        monkeypatch.setattr(health, "requires", lambda package: asked.get(package, []))
        pretend_installed(monkeypatch, torch="2.15.0")
        (problem,) = check_installation().problems
        assert problem.startswith("torch is 2.15.0, torchvision needs ==2.14.0. Run ")

    def test_faults_of_their_own_are_counted(
        self, monkeypatch: pytest.MonkeyPatch, unfit_torchvision: None
    ) -> None:
        def fail() -> None:
            raise OSError("libonnx.so is bad")

        monkeypatch.setattr(health, "_time_builtin", fail)
        encoders, builtin = check_installation().problems
        assert encoders.startswith("the encoders do not load: ")
        assert builtin.startswith("the built-in model fails: OSError: libonnx.so is bad. If ")

    def test_a_gpu_that_fails_is_one_fault_with_what_it_said(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail() -> None:
            try:
                raise RuntimeError("CUDA error: no kernel image")
            except RuntimeError as err:
                raise ConfigError("the GPU failed. 'lungunet doctor' tests it.") from err

        monkeypatch.setattr(health, "_time_builtin", fail)
        monkeypatch.setattr(health, "_time_step", fail)
        (problem,) = check_installation().problems
        assert problem.startswith(
            "the built-in model fails: RuntimeError: CUDA error: no kernel image. If "
        )

    def test_a_loss_that_is_no_number(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from lungunet.models.losses import CrossEntropyDiceLoss

        monkeypatch.setattr(
            CrossEntropyDiceLoss, "forward", lambda self, logits, mask: logits.sum() * float("nan")
        )
        problem = check_installation().problems[0]
        assert problem.startswith("one training step fails: ArithmeticError: the loss is nan. If")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("/home/ann/.venv/lib/x.so: bad", "OSError: x.so: bad"),
        (r"C:\Users\Ann\venv\x.dll is bad", "OSError: x.dll is bad"),
        ("first\nsecond", "OSError: first"),
        ("", "OSError"),
        ("1/2 of it.", "OSError: 1/2 of it"),
    ],
)
def test_messages_are_short_and_name_no_folder(text: str, said: str) -> None:
    assert health._in_short(OSError(text)) == said


MEMINFO = "MemTotal:       16000 kB\nMemFree:         10 kB\nMemAvailable:    6000 kB\n"


@pytest.mark.parametrize(
    ("files", "memory"),
    [
        ({}, (None, None)),
        ({"/proc/meminfo": MEMINFO}, (16000 * 1024, 6000 * 1024)),
        (
            {
                "/proc/meminfo": MEMINFO,
                "/sys/fs/cgroup/memory.max": "max\n",
                "/sys/fs/cgroup/memory.current": "7\n",
            },
            (16000 * 1024, 6000 * 1024),
        ),
        (
            {
                "/proc/meminfo": MEMINFO,
                "/sys/fs/cgroup/memory.max": "5000\n",
                "/sys/fs/cgroup/memory.current": "4000\n",
            },
            (5000, 1000),
        ),
    ],
)
def test_memory_is_that_of_the_container(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, str], memory: tuple[int | None, int | None]
) -> None:
    monkeypatch.setattr(health, "_text", lambda path: files.get(path, ""))
    assert health._memory() == memory
