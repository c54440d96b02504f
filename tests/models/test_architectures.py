"""Every architecture: built, trained, saved, loaded elsewhere, exported; and what each refuses."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import load_file
from torch import nn

import lungunet
from lungunet import (
    LUNG_CODEC,
    ConfigError,
    InputContract,
    LungUNetWarning,
    ModelError,
    Predictor,
    SavedModel,
    build_model,
    list_architectures,
    load_model,
    save_model,
)
from lungunet.models.architectures import Architecture, check_network, check_size, smp_class
from lungunet.models.encoders import _LinspaceOnCpu, size_arguments
from lungunet.models.unet import architecture_of

NARROW = {"decoder_channels": [16, 16, 8, 8, 8]}
# name -> encoder, size, arguments: all architectures, and nine families of encoders. Those of timm
# are the small ones that it has for tests.
CASES = {
    "unet": ("mobilenet_v2", 65, NARROW),
    "unetplusplus": ("resnet18", 96, NARROW),
    "manet": ("tu-test_mambaout", 96, NARROW),
    "linknet": ("tu-test_byobnet", 96, {}),
    "fpn": ("tu-test_convnext", 96, {"decoder_pyramid_channels": 32}),
    "pspnet": ("tu-test_resnet", 72, {"psp_out_channels": 32}),
    "deeplabv3": ("tu-test_efficientnet", 72, {"decoder_channels": 16}),
    "deeplabv3plus": ("tu-test_resnet", 80, {"decoder_channels": 16}),
    "pan": ("tu-test_resnet", 144, {}),
    "upernet": ("vgg11", 96, {"decoder_channels": 16}),
    "segformer": ("mit_b0", 96, {"decoder_segmentation_channels": 32}),
    "dpt": ("tu-test_vit", 96, {"decoder_intermediate_channels": [16] * 4}),
    "unet2015": ("unet2015", 75, {"width": 2}),
}
ENCODERS = (  # which all, some and none dilate, and which lack a level
    *("resnet18", "vgg11", "mit_b0", "mobileone_s0"),
    *("tu-test_resnet", "tu-test_convnext", "tu-test_maxvit", "tu-vgg11"),
)


def network(name: str, encoder: str, size: int, **arguments: object) -> Architecture:
    return Architecture(
        encoder, smp_arguments={**size_arguments(encoder, size), **arguments}, name=name
    )


def picture(size: int, n: int = 1) -> torch.Tensor:
    return torch.randn(n, 1, size, size, generator=torch.Generator().manual_seed(size))


def trained(name: str) -> nn.Module:
    """Two steps away from its random weights, so that nothing is what building gives."""
    encoder, size, arguments = CASES[name]
    made = network(name, encoder, size, **arguments)
    model = build_model(name, encoder, seed=0, **made.smp_arguments).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # of dropout
        for _ in range(2):
            logits = model(picture(size, 2))
            lungunet.CrossEntropyDiceLoss()(logits, (picture(size, 2)[:, 0] > 0).long()).backward()
            optimizer.step()
            optimizer.zero_grad()
    return model.eval()


ELSEWHERE = """
import sys
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
from lungunet import load_model

torch.set_num_threads(int(sys.argv[2]))
made = {}
for folder in sorted(path for path in Path(sys.argv[1]).iterdir() if path.is_dir()):
    image = load_file(folder / "image.safetensors")["image"]
    with torch.no_grad():
        made[folder.name] = load_model(folder).model(image).contiguous()
save_file(made, Path(sys.argv[1]) / "made.safetensors")
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of each, and the logits that a process of its own made of them."""
    from safetensors.torch import save_file

    root = tmp_path_factory.mktemp("architectures")
    for name, (_, size, _) in CASES.items():
        model, image = trained(name), picture(size)
        save_model(root / name, model, contract=InputContract(size), codec=LUNG_CODEC)
        with torch.no_grad():
            here = model(image)
        save_file({"image": image, "logits": here.contiguous()}, root / name / "image.safetensors")
    threads = str(torch.get_num_threads())
    subprocess.run([sys.executable, "-c", ELSEWHERE, str(root), threads], check=True, timeout=300)
    return root


@pytest.fixture(scope="module")
def loaded(folders: Path) -> Callable[[str], SavedModel]:
    """What is read of a folder, once; nothing here changes it."""
    return cache(lambda name: load_model(folders / name))


@pytest.mark.parametrize("name", CASES)
class TestContract:
    def test_logits_are_equal_bit_by_bit_in_a_process_that_knows_the_folder_alone(
        self, folders: Path, name: str
    ) -> None:
        here = load_file(folders / name / "image.safetensors")["logits"]
        elsewhere = load_file(folders / "made.safetensors")[name]
        assert here.shape == (1, 2, *[CASES[name][1]] * 2)
        assert torch.isfinite(here).all()
        assert torch.equal(here, elsewhere)

    def test_the_folder_says_what_it_is(
        self, folders: Path, loaded: Callable[[str], SavedModel], name: str
    ) -> None:
        encoder, size, arguments = CASES[name]
        assert architecture_of(loaded(name).model) == network(name, encoder, size, **arguments)
        about = json.loads((folders / name / "lungunet.json").read_text(encoding="utf-8"))
        plain = name in ("unet", "unet2015")  # which 0.1.0 reads too
        assert about["format"] == (1 if plain else 2)
        card = (folders / name / "README.md").read_text(encoding="utf-8")
        assert (f"- Architecture: {name}\n" in card) is not plain
        assert f"- Encoder: {encoder}\n" in card

    def test_slices_of_any_size_are_segmented(
        self, loaded: Callable[[str], SavedModel], name: str
    ) -> None:
        predictor = Predictor.load(loaded(name), device="cpu", precision="fp32")
        for shape in ((75, 53), (1, 40)):
            mask = predictor.predict(np.full(shape, -600, np.int16))
            assert mask.shape == shape
            assert set(np.unique(mask)) <= {0, 255}

    def test_onnx_gives_the_same(self, folders: Path, name: str, tmp_path: Path) -> None:
        parity = lungunet.export_onnx(folders / name, tmp_path / "model.onnx")
        assert parity.furthest < 1e-4
        assert parity.slices == 3

    def test_its_weights_begin_another_model(
        self, folders: Path, loaded: Callable[[str], SavedModel], name: str
    ) -> None:
        encoder = CASES[name][0]
        again = build_model(name, encoder, weights=folders / name)
        expected = loaded(name).model.state_dict()
        assert all(torch.equal(t, expected[key]) for key, t in again.state_dict().items())
        assert architecture_of(again) == architecture_of(loaded(name).model)

    def test_smp_reads_the_folder(self, folders: Path, name: str) -> None:
        if name == "unet2015":
            return
        theirs = smp.from_pretrained(folders / name, encoder_weights=None).eval()
        stored = load_file(folders / name / "image.safetensors")
        with torch.no_grad():
            assert torch.equal(theirs(stored["image"]), stored["logits"])


def on_meta(made: Architecture) -> nn.Module | None:
    """What smp builds of it, without weights; None where it builds none."""
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"), _LinspaceOnCpu():
            return smp_class(made.name)(
                made.encoder, encoder_weights=None, in_channels=1, classes=2, **made.smp_arguments
            ).eval()
    except (RuntimeError, ValueError, TypeError, AssertionError, KeyError):
        return None


def gives(model: nn.Module | None, size: int) -> bool:
    """Whether it gives logits of the size of the picture."""
    try:
        with torch.device("meta"), _LinspaceOnCpu(), torch.no_grad():
            return model is not None and model(torch.zeros(2, 1, size, size)).shape == (
                *(2, 2, size, size),
            )
    except (RuntimeError, ValueError, TypeError, AssertionError, KeyError):
        return False


def passes(check, *given: object) -> bool:
    try:
        check(*given)
    except ConfigError:
        return False
    return True


class TestSize:
    @pytest.mark.parametrize(
        ("name", "arguments"),
        [
            *((a.name, {}) for a in list_architectures() if a.smp_class),
            ("deeplabv3", {"encoder_output_stride": 16}),
            ("deeplabv3plus", {"encoder_output_stride": 8}),
            ("pan", {"encoder_output_stride": 32}),
            ("pan", {"encoder_depth": 3}),
            ("fpn", {"encoder_depth": 4, "upsampling": 2}),
            ("unetplusplus", {"encoder_depth": 3, "decoder_channels": (16, 8, 8)}),
            ("dpt", {"encoder_depth": 3, "decoder_intermediate_channels": (8, 8, 8)}),
        ],
    )
    def test_is_what_smp_takes(self, name: str, arguments: dict[str, object]) -> None:
        encoder = "tu-test_vit" if name == "dpt" else "resnet18"
        built: dict[str, nn.Module | None] = {}  # a ViT is another one for each size
        for size in (8, 16, 32, 40, 48, 64, 96, 112, 128, 144, 256):
            made = network(name, encoder, size, **arguments)
            if repr(made) not in built:
                built[repr(made)] = on_meta(made)
            assert passes(check_size, made, size) is gives(built[repr(made)], size), size

    @pytest.mark.parametrize(
        ("name", "size", "message"),
        [
            ("fpn", 250, "takes multiples of 32 px. The nearest are 224 and 256."),
            ("deeplabv3", 90, "takes multiples of 8 px. The nearest are 88 and 96."),
            ("deeplabv3plus", 1, "takes multiples of 16 px. Take 16."),
            ("pan", 100, "takes multiples of 16 px, 128 at least. Take 128."),
            ("pan", 130, "128 at least. The nearest are 128 and 144."),
        ],
    )
    def test_the_nearest_that_work_are_named(self, name: str, size: int, message: str) -> None:
        with pytest.raises(ConfigError) as caught:
            check_size(Architecture("resnet18", name=name), size)
        assert str(caught.value) == f"size {size}: {name} of resnet18 {message}" or (
            str(caught.value).endswith(message)
        )
        numbers = [int(w.strip(".")) for w in message.split(". ")[-1].split() if w[0].isdigit()]
        for number in numbers:
            check_size(Architecture("resnet18", name=name), number)

    def test_a_u_net_takes_any(self) -> None:
        for size in (1, 65, 251):
            check_size(Architecture("resnet18"), size)

    def test_a_size_that_was_built_in(self) -> None:
        made = network("dpt", "tu-vit_tiny_patch16_224", 96)
        with pytest.raises(ConfigError, match=r"was built for 96 px.*img_size=128"):
            check_size(made, 128)

    def test_the_predictor_says_it_before_the_first_slice(self) -> None:
        model = build_model("linknet", "resnet18", seed=0)
        with pytest.raises(ConfigError, match=r"size 100: linknet .* The nearest are 96 and 128"):
            Predictor(model, InputContract(100), device="cpu")

    def test_the_trainer_says_it_before_the_first_step(
        self, split: lungunet.Split, tmp_path: Path
    ) -> None:
        train = lungunet.LungCTDataset(split.train, size=40)
        model = smp.Linknet("resnet18", encoder_weights=None, in_channels=1, classes=2)
        trainer = lungunet.Trainer(model, lungunet.TrainConfig(epochs=1), out=tmp_path / "run")
        with pytest.raises(ConfigError, match="size 40: linknet of resnet18 takes multiples of 32"):
            trainer.fit(train, train)

    def test_a_model_of_ones_own_that_takes_another(self) -> None:
        class Strict(nn.Conv2d):
            def forward(self, x):
                assert x.shape[-1] == 32, "32 or nothing"
                return super().forward(x)

        predictor = Predictor(Strict(1, 2, 1), InputContract(48), device="cpu")
        with pytest.raises(ConfigError, match=r"slices of shape \(1, 48, 48\) \(32 or nothing\)"):
            predictor.predict(np.zeros((48, 48), np.int16))

    def test_logits_that_are_smaller_than_the_slice_are_not_trained(
        self, split: lungunet.Split, tmp_path: Path
    ) -> None:
        """Masks would be cut to them, from the middle, without a word."""
        train = lungunet.LungCTDataset(split.train, size=32)
        half = nn.Conv2d(1, 2, 2, stride=2)
        trainer = lungunet.Trainer(half, lungunet.TrainConfig(epochs=1), out=tmp_path / "run")
        with pytest.raises(ConfigError, match="logits of 16x16 for slices of 32x32"):
            trainer.fit(train, train)


class TestPairs:
    @pytest.mark.parametrize("name", [a.name for a in list_architectures() if a.smp_class])
    def test_what_is_refused_is_what_smp_cannot(self, name: str) -> None:
        if name == "dpt":
            return  # below
        for encoder in ENCODERS:
            made = network(name, encoder, 128)
            assert passes(check_network, made) is gives(on_meta(made), 128), encoder

    @pytest.mark.parametrize(
        ("name", "encoder", "message"),
        [
            ("deeplabv3", "vgg11", "needs an encoder whose last levels can keep their size"),
            ("pan", "tu-swin_tiny_patch4_window7_224", "such as tu-mobilenetv3_small_100"),
            ("linknet", "mit_b0", "joins a level that mit_b0 lacks"),
            ("dpt", "resnet18", "dpt takes vision transformers of timm"),
            ("dpt", "tu-vit_small_patch14_dinov2", "its patches are of 14 px"),
            ("dpt", "tu-convmixer_768_32", "its patches are of 7 px"),
            ("fpn", "tu-vit_tiny_patch16_224", "cannot be an encoder of fpn"),
            ("fpn", "unet2015", "is a whole network"),
            ("unet2015", "resnet18", "is a whole network"),
            ("unett", "resnet18", r"Unknown architecture 'unett'\. Closest: 'unet'"),
            ("unet++", "resnet18", r"Closest: 'unetplusplus'"),
        ],
    )
    def test_why(self, name: str, encoder: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            build_model(name, encoder)

    def test_a_stride_of_32_needs_no_dilation(self) -> None:
        build_model("pan", "vgg11", encoder_output_stride=32)

    @pytest.mark.parametrize("name", ["unet", "fpn", "unet2015", "dpt"])
    def test_auto_is_the_default_of_the_architecture(self, name: str) -> None:
        made = architecture_of(build_model(name))
        assert made is not None
        assert made.encoder == {a.name: a.encoder for a in list_architectures()}[name]

    def test_names_in_any_case(self) -> None:
        assert architecture_of(build_model("UnetPlusPlus", "resnet18")).name == "unetplusplus"

    @pytest.mark.parametrize(
        ("name", "arguments", "message"),
        [
            (
                "fpn",
                {"decoder_attention_type": "scse"},
                "unknown argument 'decoder_attention_type'",
            ),
            ("pspnet", {"psp_out_chanels": 3}, "Did you mean 'psp_out_channels'"),
            ("manet", {"decoder_channels": [8, 8]}, "Give one number for each level"),
            ("deeplabv3", {"encoder_output_stride": 4}, "output stride 8 or 16"),
            ("fpn", {"aux_params": {"classes": 3}}, "unknown argument 'aux_params'"),
        ],
    )
    def test_arguments(self, name: str, arguments: dict[str, object], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            build_model(name, "resnet18", **arguments)

    def test_attention_u_net(self) -> None:
        model = build_model("unet", "resnet18", decoder_attention_type="scse")
        assert any(type(module).__name__ == "SCSEModule" for module in model.modules())

    @pytest.mark.parametrize(("name", "depth"), [("pspnet", 4), ("fpn", 4), ("fpn", 3)])
    def test_of_another_depth_gives_logits_of_the_size_of_the_slice(
        self, name: str, depth: int
    ) -> None:
        model = build_model(name, "resnet18", encoder_depth=depth).eval()
        with torch.no_grad():
            assert model(picture(64)).shape == (1, 2, 64, 64)


class TestOtherArchitectureOfTheSameEncoder:
    def test_gives_its_encoder_and_says_so(self, folders: Path) -> None:
        source = folders / "unetplusplus"
        with pytest.warns(LungUNetWarning, match=r"holds unetplusplus of resnet18, of which fpn"):
            model = build_model("fpn", "resnet18", weights=source, seed=3)
        expected = load_model(source).model.encoder.state_dict()
        assert all(torch.equal(t, expected[n]) for n, t in model.encoder.state_dict().items())
        fresh = build_model("fpn", "resnet18", seed=3).decoder.state_dict()
        assert all(torch.equal(t, fresh[n]) for n, t in model.decoder.state_dict().items())


def plain(kind: type, **arguments: object) -> nn.Module:
    given = {"encoder_weights": None, "in_channels": 1, "classes": 2, **arguments}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        return kind("resnet18", **given).eval()


class TestOfSmpItself:
    @pytest.mark.parametrize("name", [a.name for a in list_architectures() if a.smp_class])
    def test_is_known_by_its_class_and_arguments(self, name: str) -> None:
        made = network(name, *CASES[name][:2], **CASES[name][2])
        theirs = smp_class(name)(
            made.encoder, encoder_weights=None, in_channels=1, classes=2, **made.smp_arguments
        )
        assert architecture_of(theirs) == made

    def test_trains_and_loads_without_its_maker(
        self, split: lungunet.Split, tmp_path: Path
    ) -> None:
        train = lungunet.LungCTDataset(split.train, size=64)
        model = plain(smp.UnetPlusPlus, decoder_channels=(16, 16, 8, 8, 8))
        config = lungunet.TrainConfig(epochs=1, workers=0, device="cpu")
        lungunet.Trainer(model, config, out=tmp_path / "run").fit(train, train)
        state = load_model(tmp_path / "run").model.state_dict()
        assert all(torch.equal(t, state[key]) for key, t in model.state_dict().items())

    def test_of_a_folder_that_0_1_0_could_not_rebuild(self, tmp_path: Path) -> None:
        model = plain(smp.FPN)
        save_model(tmp_path, model, contract=InputContract(64), codec=LUNG_CODEC)
        about = json.loads((tmp_path / "lungunet.json").read_text(encoding="utf-8"))
        about.update(architecture=None, format=1)
        (tmp_path / "lungunet.json").write_text(json.dumps(about), encoding="utf-8")
        with torch.no_grad():
            assert torch.equal(load_model(tmp_path).model(picture(64)), model(picture(64)))

    @pytest.mark.parametrize("arguments", [{"activation": "sigmoid"}, {"classes": 1}])
    def test_without_logits_of_two_classes_is_nothing_we_rebuild(self, arguments) -> None:
        assert architecture_of(plain(smp.Unet, **arguments)) is None

    def test_a_subclass_is_a_model_of_ones_own(self) -> None:
        class Unet(smp.Unet):
            pass

        assert architecture_of(plain(Unet)) is None

    def test_save_pretrained_loads_with_a_contract(self, tmp_path: Path) -> None:
        model = plain(smp.MAnet)
        model.save_pretrained(tmp_path)
        with pytest.raises(ModelError, match=r"load_model\(path, contract=\.\.\., codec=\.\.\.\)"):
            load_model(tmp_path)
        saved = load_model(tmp_path, contract=InputContract(64))
        with torch.no_grad():
            assert torch.equal(saved.model(picture(64)), model(picture(64)))
        assert saved.codec == LUNG_CODEC
        save_model(tmp_path / "whole", saved.model, contract=saved.contract, codec=saved.codec)
        assert Predictor.load(tmp_path / "whole").codec == LUNG_CODEC

    @pytest.mark.parametrize("kind", [smp.Unet, smp.DeepLabV3Plus])
    def test_three_channels_and_one_logit_become_one_and_two(self, tmp_path: Path, kind) -> None:
        """The defaults of smp; softmax over 0 and a logit is its sigmoid."""
        model = plain(kind, in_channels=3, classes=1)
        model.save_pretrained(tmp_path)
        saved = load_model(tmp_path, contract=InputContract(64))
        with torch.no_grad():
            theirs = model(picture(64).expand(-1, 3, -1, -1)).sigmoid()[:, 0]
            ours = saved.model(picture(64)).softmax(1)[:, 1]
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)

    def test_a_size_that_it_cannot_take(self, tmp_path: Path) -> None:
        plain(smp.FPN).save_pretrained(tmp_path)
        with pytest.raises(ConfigError, match="size 100: fpn of resnet18 takes multiples of 32"):
            load_model(tmp_path, contract=InputContract(100))

    def test_contract_is_for_folders_that_have_none(self, folders: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="holds its own"):
            load_model(folders / "fpn", contract=InputContract(96))
        plain(smp.Unet).save_pretrained(tmp_path)
        with pytest.raises(ConfigError, match="Pass contract too"):
            load_model(tmp_path, codec=LUNG_CODEC)

    @pytest.mark.parametrize("named", ["Popen", "SegmentationModel", "", None, 3])
    def test_no_class_is_built_but_those_of_the_list(self, tmp_path: Path, named) -> None:
        plain(smp.Unet).save_pretrained(tmp_path)
        file = tmp_path / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "_model_class": named}))
        with pytest.raises(ModelError, match="a model of your own"):
            load_model(tmp_path, contract=InputContract(64))

    def test_arguments_that_open_files_are_refused(self, tmp_path: Path) -> None:
        plain(smp.Unet).save_pretrained(tmp_path)
        file = tmp_path / "config.json"
        harm = {"encoder_name": "tu-resnet18", "checkpoint_path": "evil.pth"}
        file.write_text(json.dumps({**json.loads(file.read_text()), **harm}))
        with pytest.raises(ModelError, match="a model of your own"):
            load_model(tmp_path, contract=InputContract(64))


class TestOfOnesOwn:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        model = nn.Sequential(nn.Conv2d(1, 2, 1))
        save_model(tmp_path, model, contract=InputContract(32), codec=LUNG_CODEC)
        return tmp_path

    def test_the_error_names_three_ways_out(self, folder: Path) -> None:
        with pytest.raises(ModelError) as caught:
            Predictor.load(folder)
        for way in (
            "a model of your own (Sequential)",
            "Predictor.load(load_model(path, model=net))",
            "Predictor(net, contract, codec)",
            "export_onnx(load_model(path, model=net), 'model.onnx')",
        ):
            assert way in str(caught.value)

    def test_the_three_ways_agree(self, folder: Path, tmp_path: Path) -> None:
        net = nn.Sequential(nn.Conv2d(1, 2, 1))
        with torch.no_grad():
            for given, values in zip(net.parameters(), ([[1.0], [-1.0]], [0.1, -0.1]), strict=True):
                given.copy_(torch.tensor(values).reshape(given.shape))
        save_model(folder, net, contract=InputContract(32), codec=LUNG_CODEC)
        saved = load_model(folder, model=nn.Sequential(nn.Conv2d(1, 2, 1)))
        lungunet.export_onnx(saved, tmp_path / "model.onnx")
        image = np.random.default_rng(0).integers(-1000, 400, (40, 30)).astype(np.int16)
        masks = [
            Predictor.load(saved, device="cpu").predict(image),
            Predictor(net, saved.contract, saved.codec, device="cpu").predict(image),
            Predictor.load(tmp_path / "model.onnx").predict(image),
        ]
        assert (masks[0] == masks[1]).all()
        assert (masks[0] == masks[2]).all()
        assert len(np.unique(masks[0])) == 2

    def test_its_repr_is_two_lines(self, folder: Path) -> None:
        lines = repr(load_model(folder, model=nn.Sequential(nn.Conv2d(1, 2, 1)))).splitlines()
        assert len(lines) == 2
        assert lines[0].startswith("<SavedModel: Sequential, 0.0 M parameters, of ")
        assert lines[1].startswith(" sees 32x32, window -600,1500, gives ")
