import copy
import json
import socket
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lungunet.errors import ConfigError, ModelError, WeightsUnavailableError
from lungunet.models.encoders import _closest, _count_parameters, is_cached, list_encoders
from lungunet.models.hub import is_unreachable
from lungunet.models.unet import (
    Architecture,
    architecture_of,
    build_from,
    build_model,
    build_unet,
)
from lungunet.models.weights import _fit_first_layer

SMALL = {"decoder_channels": [32, 16, 16, 8, 8]}
ENCODERS = {  # name -> arguments that keep it small
    "resnet18": SMALL,
    "efficientnet-b0": SMALL,
    "mobilenet_v2": {},
    "mit_b0": SMALL,
    "tu-mobilenetv3_small_100": SMALL,
    "tu-convnext_atto": SMALL,
    "unet2015": {"width": 2},
}


def picture(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def equal(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def resnet(**arguments):
    return build_unet("resnet18", **{"seed": 0, **SMALL, **arguments})


@pytest.fixture(scope="module", params=ENCODERS)
def encoder(request):
    return request.param


@pytest.fixture(scope="module")
def model(encoder):
    return build_unet(encoder, seed=0, **ENCODERS[encoder])


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise socket.gaierror("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An offline Hugging Face cache; call it to put a repository into it."""
    cache = tmp_path / "hub"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    # huggingface_hub has read the environment when it was imported.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))

    def put(repository, state, *, revision="0" * 40):
        folder = cache / f"models--{repository.replace('/', '--')}"
        snapshot = folder / "snapshots" / revision
        for path in (snapshot, folder / "refs", folder / "blobs"):
            path.mkdir(parents=True)
        (folder / "refs" / "main").write_text(revision)
        blob = folder / "blobs" / "a1"
        save_file(state, blob)
        (snapshot / "model.safetensors").symlink_to(blob)
        (snapshot / "config.json").write_text("{}")

    return put


class TestEveryEncoder:
    @pytest.mark.parametrize("shape", [(3, 1, 64, 96), (1, 1, 65, 47)])
    def test_logits_have_the_size_of_the_input(self, model, shape):
        with torch.inference_mode():
            logits = model.eval()(picture(*shape))
        assert logits.shape == (shape[0], 2, *shape[2:])
        assert logits.dtype == torch.float32
        assert torch.isfinite(logits).all()

    @pytest.mark.parametrize(("in_channels", "n_classes"), [(2, 3), (3, 2)])
    def test_channels(self, encoder, in_channels, n_classes):
        numbers = {"in_channels": in_channels, "n_classes": n_classes}
        model = build_unet(encoder, **numbers, seed=0, **ENCODERS[encoder]).eval()
        with torch.inference_mode():
            assert model(picture(1, in_channels, 32, 64)).shape == (1, n_classes, 32, 64)

    def test_learns(self, model):
        model = copy.deepcopy(model).train()  # the others share it
        logits = model(picture(2, 1, 64, 96))
        logits.square().mean().backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        assert gradients
        assert all(torch.isfinite(g).all() for g in gradients)
        assert sum(g.abs().sum() for g in gradients) > 0

    def test_slices_do_not_see_each_other_in_eval(self, model):
        x = picture(3, 1, 64, 32)
        with torch.inference_mode():
            together, alone = model.eval()(x), model(x[1:2])
        torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-4)

    def test_seed(self, model, encoder):
        before = torch.get_rng_state()
        same = build_unet(encoder, seed=0, **ENCODERS[encoder])
        other = build_unet(encoder, seed=1, **ENCODERS[encoder])
        assert torch.equal(torch.get_rng_state(), before)
        assert equal(same, model)
        assert not equal(other, model)

    def test_rebuilds_from_json(self, model, encoder):
        architecture = architecture_of(model)
        assert architecture == Architecture(encoder, 1, 2, ENCODERS[encoder])
        read = Architecture.from_dict(json.loads(json.dumps(architecture.to_dict())))
        assert read == architecture
        rebuilt = build_from(read)
        rebuilt.load_state_dict(model.state_dict())
        assert equal(rebuilt, model)

    def test_loads_what_it_saved(self, model, encoder, tmp_path):
        save_file(model.state_dict(), tmp_path / "model.safetensors")
        assert equal(build_unet(encoder, weights=tmp_path, **ENCODERS[encoder]), model)

    def test_no_metadata_in_the_state_dict(self, model):
        assert all(isinstance(value, torch.Tensor) for value in model.state_dict().values())


class TestSeed:
    def test_none_draws_from_the_global_generator(self):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(5)
            first, second = resnet(seed=None), resnet(seed=None)
            torch.default_generator.manual_seed(5)
            again = resnet(seed=None)
        assert equal(first, again)
        assert not equal(first, second)

    def test_is_that_of_torch(self):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(3)
            expected = resnet(seed=None)
        assert equal(resnet(seed=3), expected)


class TestArchitecture:
    def test_tuples_are_lists_at_once(self):
        assert Architecture("resnet18", 1, 2, {"decoder_channels": (8, 8)}).smp_arguments == {
            "decoder_channels": [8, 8]
        }

    def test_survives_copies(self):
        model = resnet()
        assert architecture_of(copy.deepcopy(model)) == architecture_of(model)

    def test_a_foreign_module_has_none(self):
        assert architecture_of(nn.Linear(1, 1)) is None

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"encoder": "resnet18"}, r"missing \['classes', 'in_channels', 'smp_arguments'\]"),
            ({**Architecture().to_dict(), "depth": 3}, r"unknown \['depth'\]"),
        ],
    )
    def test_refuses_other_keys(self, values, message):
        with pytest.raises(ConfigError, match=message):
            Architecture.from_dict(values)

    @pytest.mark.parametrize("weights", [None, "none", False])
    def test_config_of_smp_asks_for_no_weights(self, weights):
        assert resnet(weights=weights).config["encoder_weights"] is None


class TestHub:
    """The loading code of smp and timm itself, on weights that the tests made."""

    @pytest.fixture
    def native(self, hub):
        from segmentation_models_pytorch.encoders import encoders, get_encoder

        settings = encoders["resnet18"]["pretrained_settings"]["imagenet"]
        encoder = get_encoder("resnet18", weights=None)
        encoder.load_state_dict({k: torch.rand_like(v.float()) for k, v in state_of(encoder)})
        hub(settings["repo_id"], encoder.state_dict(), revision=settings["revision"])
        return encoder

    @pytest.fixture
    def timm_model(self, hub):
        import timm

        model = timm.create_model("mobilenetv3_small_100")
        hub("timm/mobilenetv3_small_100.lamb_in1k", model.state_dict())
        return model

    @pytest.mark.parametrize("tag", ["imagenet", True])
    def test_native_one_channel_sums_rgb(self, native, tag):
        model = resnet(weights=tag)
        rgb = native.conv1.weight
        by_hand = rgb[:, 0] + rgb[:, 1] + rgb[:, 2]
        torch.testing.assert_close(model.encoder.conv1.weight[:, 0], by_hand)
        assert torch.equal(model.encoder.layer4[1].conv2.weight, native.layer4[1].conv2.weight)
        assert torch.equal(model.encoder.bn1.running_var, native.bn1.running_var)

    def test_native_two_channels_take_red_and_green(self, native):
        weight = resnet(weights="imagenet", in_channels=2).encoder.conv1.weight
        torch.testing.assert_close(weight, native.conv1.weight[:, :2] * 1.5)

    @pytest.mark.parametrize(
        ("encoder", "tag"),
        [
            ("tu-mobilenetv3_small_100", "imagenet"),
            ("tu-mobilenetv3_small_100", "lamb_in1k"),
            ("tu-mobilenetv3_small_100.lamb_in1k", "imagenet"),
            ("tu-mobilenetv3_small_100.lamb_in1k", "lamb_in1k"),
            ("tu-mobilenetv3_small_100", True),
        ],
    )
    def test_timm_one_channel_sums_rgb(self, timm_model, encoder, tag):
        model = build_unet(encoder, weights=tag, **SMALL)
        by_hand = timm_model.conv_stem.weight.sum(dim=1)
        torch.testing.assert_close(model.encoder.model.conv_stem.weight[:, 0], by_hand)
        ours, theirs = model.encoder.model.blocks[5], timm_model.blocks[5]
        assert equal(ours, theirs)
        assert model.config["encoder_weights"] is None
        assert model.config["encoder_name"] == encoder
        assert architecture_of(model).encoder == encoder

    def test_cached_weights_are_seen_without_asking(self, native, timm_model):
        assert is_cached("resnet18")
        assert is_cached("tu-mobilenetv3_small_100")
        assert not is_cached("resnet34")
        assert not is_cached("tu-resnet18")
        assert not is_cached("unet2015")  # there are none

    def test_timm_tag_that_is_not_the_default(self, hub):
        import timm

        theirs = timm.create_model("resnet18")
        hub("timm/resnet18.tv_in1k", theirs.state_dict())
        ours = build_unet("tu-resnet18", weights="tv_in1k", **SMALL)
        assert equal(ours.encoder.model.layer4, theirs.layer4)

    @pytest.mark.parametrize("weights", [None, "none", False])
    @pytest.mark.parametrize("encoder", ["resnet18", "tu-mobilenetv3_small_100"])
    def test_nothing_is_fetched_unless_asked_for(self, hub, monkeypatch, encoder, weights):
        monkeypatch.setattr("huggingface_hub.hf_hub_download", None)
        expected = build_unet(encoder, seed=0, **SMALL)
        assert equal(build_unet(encoder, weights=weights, seed=0, **SMALL), expected)

    @pytest.mark.parametrize("encoder", ["resnet18", "tu-mobilenetv3_small_100"])
    def test_offline_and_not_in_the_cache(self, hub, encoder):
        with pytest.raises(WeightsUnavailableError, match=r"weights='none'.*from a file"):
            build_unet(encoder, weights="imagenet")

    @pytest.mark.parametrize("encoder", ["resnet18", "tu-mobilenetv3_small_100"])
    def test_no_network(self, tmp_path, monkeypatch, caplog, encoder):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(time, "sleep", lambda _: None)  # huggingface_hub tries for 20 s
        with pytest.raises(WeightsUnavailableError, match=f"{encoder}: the weights 'imagenet'"):
            build_unet(encoder, weights="imagenet")
        assert not caplog.records  # one for each of twelve tries

    def test_a_broken_cache_is_not_called_unreachable(self, native, tmp_path):
        for file in tmp_path.rglob("a1"):
            file.write_bytes(b"broken")
        with pytest.raises(Exception, match="header") as caught:
            resnet(weights="imagenet")
        assert not isinstance(caught.value, WeightsUnavailableError)

    @pytest.mark.parametrize(
        ("error", "unreachable"),
        [
            (ConnectionResetError(), True),
            (TimeoutError(), True),
            (PermissionError(), False),
            (OSError("No space left on device"), False),
            (RuntimeError(), False),
        ],
    )
    def test_what_is_unreachable(self, error, unreachable):
        assert is_unreachable(error) is unreachable


def state_of(module):
    return [(k, v) for k, v in module.state_dict().items()]


class TestFile:
    @pytest.fixture
    def model(self):
        return resnet(seed=7)

    @pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.pth"])
    @pytest.mark.parametrize("as_text", [True, False])
    def test_whole_model(self, model, tmp_path, name, as_text):
        path = tmp_path / name
        write(path, model.state_dict())
        assert equal(resnet(weights=str(path) if as_text else path), model)

    def test_encoder_alone(self, model, tmp_path):
        write(tmp_path / "encoder.pt", model.encoder.state_dict())
        loaded = resnet(weights=tmp_path / "encoder.pt")
        assert equal(loaded.encoder, model.encoder)
        assert equal(loaded.decoder, resnet().decoder)

    def test_encoder_of_timm_alone(self, tmp_path):
        name = "tu-mobilenetv3_small_100"
        model = build_unet(name, seed=7, **SMALL)
        write(tmp_path / "encoder.safetensors", model.encoder.state_dict())
        loaded = build_unet(name, weights=tmp_path / "encoder.safetensors", **SMALL)
        assert equal(loaded.encoder, model.encoder)

    @pytest.mark.parametrize("in_channels", [1, 2, 4])
    def test_encoder_trained_on_rgb_with_its_classifier(self, tmp_path, hub, in_channels):
        # What a user finds on the hub; loading it must give what smp gives for the tag.
        from segmentation_models_pytorch.encoders import encoders, get_encoder

        encoder = get_encoder("resnet18", weights=None)
        state = {**encoder.state_dict(), "fc.weight": torch.ones(3, 512), "fc.bias": torch.ones(3)}
        settings = encoders["resnet18"]["pretrained_settings"]["imagenet"]
        hub(settings["repo_id"], state, revision=settings["revision"])
        write(tmp_path / "resnet18.pth", state)
        loaded = resnet(weights=tmp_path / "resnet18.pth", in_channels=in_channels)
        by_tag = resnet(weights="imagenet", in_channels=in_channels)
        torch.testing.assert_close(loaded.encoder.state_dict(), by_tag.encoder.state_dict())

    @pytest.mark.parametrize("folder", ["", "best"])
    def test_model_folder_and_run_folder(self, model, tmp_path, folder):
        (tmp_path / folder).mkdir(exist_ok=True)
        write(tmp_path / folder / "model.safetensors", model.state_dict())
        assert equal(resnet(weights=tmp_path), model)

    def test_a_path_does_not_enter_the_config(self, model, tmp_path):
        write(tmp_path / "w.pt", model.state_dict())
        assert resnet(weights=tmp_path / "w.pt").config["encoder_weights"] is None

    def test_another_encoder(self, model, tmp_path):
        write(tmp_path / "w.pt", model.state_dict())
        with pytest.raises(ModelError, match=r"missing in the file\n.*and \d+ more") as caught:
            build_unet("resnet34", weights=tmp_path / "w.pt", **SMALL)
        assert str(tmp_path / "w.pt") in str(caught.value)

    def test_a_deeper_encoder_is_not_cut_to_fit(self, tmp_path):
        deeper = build_unet("resnet34", seed=0, **SMALL)
        write(tmp_path / "w.pt", deeper.encoder.state_dict())
        with pytest.raises(ModelError, match=r"layer1\.2\.conv1\.weight: not in the model"):
            resnet(weights=tmp_path / "w.pt")

    def test_other_classes(self, tmp_path):
        write(tmp_path / "w.pt", resnet(n_classes=3).state_dict())
        with pytest.raises(
            ModelError, match=r"segmentation_head\.0\.bias: \(3,\) in the file, \(2,"
        ):
            resnet(weights=tmp_path / "w.pt")

    def test_nothing_in_common(self, tmp_path):
        write(tmp_path / "w.pt", {"a": torch.ones(2)})
        with pytest.raises(ModelError, match="does not fit"):
            resnet(weights=tmp_path / "w.pt")

    def test_code_is_not_run(self, tmp_path):
        torch.save({"a": nn.Linear(1, 1)}, tmp_path / "w.pt")
        with pytest.raises(ModelError, match="more than tensors"):
            resnet(weights=tmp_path / "w.pt")

    @pytest.mark.parametrize("held", [[1, 2], {"epoch": 3}])
    def test_no_state_dict(self, tmp_path, held):
        torch.save(held, tmp_path / "w.pt")
        with pytest.raises(ModelError, match=r"holds no state dict.*Save model\.state_dict"):
            resnet(weights=tmp_path / "w.pt")

    @pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
    @pytest.mark.parametrize("content", [b"", b"no weights at all"])
    def test_damaged(self, tmp_path, name, content):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match=f"{name}: damaged"):
            resnet(weights=tmp_path / name)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_numbers_that_are_none(self, model, tmp_path, value):
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        name = next(iter(state))
        state[name].view(-1)[3] = value
        write(tmp_path / "w.safetensors", state)
        with pytest.raises(ModelError, match=rf"NaN or infinite numbers in {name}\. The training"):
            resnet(weights=tmp_path / "w.safetensors")

    def test_cut_off(self, model, tmp_path):
        for name in ("w.safetensors", "w.pt"):
            write(tmp_path / name, model.state_dict())
            whole = (tmp_path / name).read_bytes()
            (tmp_path / name).write_bytes(whole[: len(whole) // 2])
            with pytest.raises(ModelError, match="damaged"):
                resnet(weights=tmp_path / name)

    def test_no_such_file(self, tmp_path):
        with pytest.raises(ModelError, match=r"gone\.pt: there is no such file"):
            resnet(weights=tmp_path / "gone.pt")

    def test_folder_without_weights(self, tmp_path):
        with pytest.raises(ModelError, match="holds neither"):
            resnet(weights=tmp_path)

    def test_other_kind_of_file(self, tmp_path):
        (tmp_path / "last.ckpt").touch()
        with pytest.raises(ModelError, match=r"cannot read '\.ckpt'.*\.safetensors, \.pt, \.pth"):
            resnet(weights=tmp_path / "last.ckpt")


def write(path, state):
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)


class TestRefusals:
    def test_unknown_encoder(self):
        message = (
            "Unknown encoder 'resnet3x'. Closest: 'resnet34', 'resnet18', 'resnet50'. "
            "'lungunet encoders' lists all."
        )
        with pytest.raises(ConfigError) as caught:
            build_unet("resnet3x")
        assert str(caught.value) == message

    @pytest.mark.parametrize(
        ("name", "closest"),
        [
            ("Resnet34", "'resnet34'"),
            ("convnext_tiny", "'tu-convnext_tiny'"),
            ("timm-regnetx_002", "'tu-regnetx_002'"),
            ("tu-resnet81", "'tu-resnet18'"),
            ("unet2051", "'unet2015'"),
        ],
    )
    def test_closest_encoder(self, name, closest):
        with pytest.raises(ConfigError, match=rf"Closest: {closest}[,.]"):
            build_unet(name)

    def test_nothing_is_close(self):
        assert _closest("zzz") == ""
        with pytest.raises(ConfigError, match=r"'zzz'\. 'lungunet encoders' lists all\."):
            build_unet("zzz")

    @pytest.mark.parametrize("name", ["tu-hf-hub:timm/resnet18", "tu-local-dir:/tmp", "tu-"])
    def test_timm_is_not_sent_elsewhere(self, name):
        with pytest.raises(ConfigError, match="Unknown encoder"):
            build_unet(name)

    def test_timm_model_that_cannot_be_an_encoder(self):
        with pytest.raises(ConfigError, match="cannot be an encoder of unet"):
            build_unet("tu-vit_tiny_patch16_224")

    @pytest.mark.parametrize(
        ("encoder", "tag", "message"),
        [
            (
                "resnet18",
                "imagnet",
                r"Did you mean 'imagenet'\? There are 'imagenet', 'ssl', 'swsl'",
            ),
            ("tu-resnet18", "imagenette", r"Did you mean 'imagenet'\? There are 'a1_in1k'"),
            ("resnet18", "lung", r"Did you mean 'lungs'\? There are"),
            ("resnext101_32x32d", "imagenet", "There are 'instagram'"),
            ("tu-mobilenetv3_small_100", "a1_in1k", "There are 'lamb_in1k'"),
            ("tu-coatnet_0_224", "imagenet", "There are none to download"),
            ("unet2015", "imagenet", "There are none to download"),
        ],
    )
    def test_unknown_tag(self, encoder, tag, message):
        with pytest.raises(ConfigError, match=f"{encoder}: no weights '{tag}'. {message}"):
            build_unet(encoder, weights=tag)

    def test_unknown_tag_in_the_name(self):
        with pytest.raises(
            ConfigError, match=r"tu-resnet18: no weights 'foo'\. There are 'a1_in1k'"
        ):
            build_unet("tu-resnet18.foo")

    @pytest.mark.parametrize("encoder", ["resnet18", "tu-mobilenetv3_small_100"])
    def test_depth_without_its_channels(self, encoder):
        with pytest.raises(ConfigError, match=r"decoder_channels=\(256, 128, 64\)"):
            build_unet(encoder, encoder_depth=3)
        model = build_unet(encoder, encoder_depth=3, decoder_channels=(32, 16, 8)).eval()
        with torch.inference_mode():
            assert model(picture(1, 1, 65, 47)).shape == (1, 2, 65, 47)

    @pytest.mark.parametrize(
        ("encoder", "arguments", "message"),
        [
            ("resnet18", {"decoder_chanels": [1]}, "Did you mean 'decoder_channels'"),
            ("resnet18", {"foo": 3}, "unknown argument 'foo'"),
            ("resnet18", {"activation": "softmax"}, "unknown argument 'activation'"),
            ("resnet18", {"aux_params": {}}, "unknown argument 'aux_params'"),
            ("resnet18", {"encoder_depth": 6}, "It must be 1 to 5"),
            ("resnet18", {"decoder_channels": 16}, "decoder_channels is 16"),
            ("resnet18", {"decoder_attention_type": "x"}, "leave out decoder_attention_type='x'"),
            ("resnet18", {"decoder_interpolation": "x"}, "one of nearest, bilinear"),
            ("resnet18", {"output_stride": 7}, "leave out output_stride=7"),
            ("resnet18", {"decoder_use_norm": torch.relu}, "plain values"),
            ("tu-mobilenetv3_small_100", {"foo": 3}, "leave out foo=3"),
            ("tu-convnext_atto", {"output_stride": 7}, "AssertionError"),
            ("tu-mobilenetv3_small_100", {"aux_params": {}}, "unknown argument 'aux_params'"),
            ("unet2015", {"encoder_depth": 3}, "unknown argument 'encoder_depth'. There are valid"),
            ("unet2015", {"width": 0}, "width is 0"),
        ],
    )
    def test_arguments(self, encoder, arguments, message):
        with pytest.raises(ConfigError, match=message):
            build_unet(encoder, **arguments)

    @pytest.mark.parametrize("arguments", [{"n_classes": 1}, {"n_classes": 0}, {"in_channels": 0}])
    def test_numbers(self, arguments):
        with pytest.raises(ConfigError, match="must be at least"):
            build_unet("resnet18", **arguments)

    def test_the_name_of_smp_for_n_classes(self):
        with pytest.raises(ConfigError, match=r"^classes: is called n_classes here\."):
            build_model("unet2015", classes=3)
        with pytest.warns(DeprecationWarning, match="called n_classes= now"):
            assert build_unet("unet2015", width=1, classes=3)(picture(1, 1, 16, 16)).shape[1] == 3


class TestList:
    def test_native_ones(self):
        names = [info.name for info in list_encoders("*18")]
        assert names == ["resnet18"]

    def test_original(self):
        (info,) = list_encoders("unet2015")
        assert info.weights == ()
        assert info.parameters == 18_842_048  # the contracting path of the 31 million

    @pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "mit_b0", "efficientnet-b0"])
    def test_parameters_are_those_of_the_encoder(self, name):
        before = torch.get_rng_state()
        (info,) = list_encoders(name)
        assert torch.equal(torch.get_rng_state(), before)
        encoder = build_unet(name, seed=0).encoder
        assert info.parameters == sum(p.numel() for p in encoder.parameters())

    def test_every_name_is_known(self):
        import segmentation_models_pytorch as smp

        names = {info.name for info in list_encoders("*[!0-9]")} | {"resnet34"}
        assert names <= {"unet2015", *smp.encoders.get_encoder_names()}
        assert not any(info.name.startswith("timm-") for info in list_encoders("t*"))

    def test_timm_ones_on_demand(self):
        infos = list_encoders("tu-mobilenetv3_small_1*")
        assert [(i.name, i.parameters, i.weights) for i in infos] == [
            ("tu-mobilenetv3_small_100", None, ("lamb_in1k",))
        ]
        assert all(info.name.startswith("tu-") for info in list_encoders("tu-*"))

    @pytest.mark.parametrize(
        "name", ["vit_tiny_patch16_224", "beit_base_patch16_224", "mixer_b16_224"]
    )
    def test_timm_models_that_cannot_be_encoders_are_left_out(self, name):
        assert list_encoders(f"tu-{name}") == []
        with pytest.raises(ConfigError, match="cannot be an encoder of unet"):
            build_unet(f"tu-{name}")

    @pytest.mark.parametrize("name", ["tu-regnetx_002", "tu-pvt_v2_b0", "tu-edgenext_xx_small"])
    def test_timm_models_listed_work(self, name):
        assert [info.name for info in list_encoders(name)] == [name]
        with torch.inference_mode():
            assert build_unet(name, **SMALL).eval()(picture(1, 1, 64, 96)).shape == (1, 2, 64, 96)

    def test_first_tag_is_the_default_of_timm(self):
        import timm

        (info,) = list_encoders("tu-resnet18")
        assert info.weights[0] == timm.models.get_pretrained_cfg("resnet18").tag

    def test_count_equals_the_real_thing(self):
        assert _count_parameters("resnet18") == 11_176_512 - 64 * 2 * 49  # ImageNet's, one channel


def test_first_layer_worked_by_hand():
    rgb = torch.tensor([1.0, 2.0, 4.0]).reshape(1, 3, 1, 1)
    wanted = {n: {"stem": torch.zeros(1, n, 1, 1)} for n in (1, 2, 3, 4)}
    fitted = {n: _fit_first_layer({"stem": rgb}, wanted[n])["stem"].flatten() for n in wanted}
    assert fitted[1].tolist() == [7]
    assert fitted[2].tolist() == [1.5, 3]
    assert fitted[3].tolist() == [1, 2, 4]
    assert fitted[4].tolist() == [0.75, 1.5, 3, 0.75]


def test_import_is_light():
    code = (
        "import sys, lungunet.models.unet; "
        "print([m for m in ('segmentation_models_pytorch', 'timm') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
