"""Layout, compilation, precision, fused kernels and averaged weights: what they change and what they must not."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner import Runner
from torch import nn

import sosr_det.register  # noqa: F401
from sosr_det.engine.acceleration.bfloat16_wrapper import Bfloat16OptimWrapper
from sosr_det.engine.acceleration.compilation import compile_parts, require_compiler
from sosr_det.engine.acceleration.device import Device
from sosr_det.engine.acceleration.device_flags import device_flags
from sosr_det.engine.acceleration.layout import is_channels_last, to_channels_last
from sosr_det.engine.acceleration.plan import Plan
from sosr_det.engine.acceleration.resolution import Resolution
from sosr_det.engine.acceleration.runner import accelerated
from sosr_det.engine.acceleration.settings import Settings
from sosr_det.engine.acceleration.weight_average import WeightAverage
from sosr_det.errors import ConfigError
from sosr_det.models.classifier import BackboneClassifier
from sosr_det.registry.digest import tensors_digest


def classifier(seed=0):
    torch.manual_seed(seed)
    return BackboneClassifier(
        {"arch": "resnet20"},
        10,
        {"type": "SOSRLoss", "threshold": 0.3, "weight": 0.5},
        data_preprocessor={"type": "ClassificationPreprocessor", "mean": [120.0] * 3, "std": [60.0] * 3},
    )


def small_classifier():
    """With a backbone of one convolution, which compiles in a second."""
    model = classifier()
    torch.manual_seed(0)
    model.backbone = nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    return model


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return {
        "inputs": torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=generator),
        "labels": torch.arange(4),
    }


def loss_and_gradients(model, batch):
    data = model.data_preprocessor(batch, True)
    data["inputs"] = data["inputs"].to(model.head.weight.dtype)
    loss, _ = model.parse_losses(model(**data, mode="loss"))
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters()}


# ---- layout --------------------------------------------------------------------------------------------------------


def test_channels_last_computes_the_same(batch):
    # In fp64: in fp32 another order of summing moves some activations over ReLU's kink, and gradients by 1 %.
    plain, other = classifier().double(), classifier().double()
    to_channels_last(other)
    seen = []
    other.backbone.register_forward_pre_hook(lambda _m, arguments: seen.append(arguments[0]))
    loss, gradients = loss_and_gradients(plain, batch)
    other_loss, other_gradients = loss_and_gradients(other, batch)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert not seen[0].is_contiguous()
    assert other_loss == pytest.approx(loss, abs=1e-12)
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, other_gradients[name], rtol=1e-8, atol=1e-10)
    assert (is_channels_last(other), is_channels_last(plain)) == (True, False)


def test_names_values_and_digests_do_not_depend_on_the_layout(tmp_path):
    plain, other = classifier(), classifier()
    to_channels_last(other)
    before, after = plain.state_dict(), other.state_dict()
    assert list(before) == list(after)
    assert after[_some_convolution(other)].stride()[1] == 1  # channels are innermost indeed
    assert tensors_digest(before) == tensors_digest(after)
    torch.save(after, tmp_path / "weights.pth")  # keeps strides, and a plain model takes the values
    loaded = torch.load(tmp_path / "weights.pth", weights_only=True)
    fresh = classifier(seed=5)
    assert tensors_digest(fresh.state_dict()) != tensors_digest(before)  # the digest sees something
    fresh.load_state_dict(loaded)
    assert tensors_digest(fresh.state_dict()) == tensors_digest(before)
    assert not is_channels_last(fresh)


def _some_convolution(model):
    return next(name for name, p in model.named_parameters() if p.dim() == 4 and min(p.shape) > 1)


def test_loading_weights_keeps_the_layout():
    model = classifier()
    to_channels_last(model)
    model.load_state_dict(classifier(seed=3).state_dict())
    assert is_channels_last(model)


def test_operators_of_mmcv_get_memory_in_order():
    from mmcv.ops import RoIAlign

    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.pool = RoIAlign((2, 2))

        def forward(self, images, rois):
            return self.pool(self.conv(images), rois)

    torch.manual_seed(0)
    plain = Detector()
    other = copy.deepcopy(plain)
    to_channels_last(other)
    seen = []
    other.pool.register_forward_pre_hook(lambda _m, arguments: seen.append(arguments[0]))
    images, rois = torch.randn(2, 3, 8, 8), torch.tensor([[0, 1.0, 1, 6, 6], [1, 0.0, 0, 7, 5]])
    result = other(images, rois)
    assert seen[0].is_contiguous()
    # The same by hand: without the hook the operator would have been given channels-last memory.
    assert not other.conv(images.contiguous(memory_format=torch.channels_last)).is_contiguous()
    assert torch.allclose(result, plain(images, rois), atol=1e-5)


# ---- compilation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_parts_keep_names_and_results(batch, backend):
    plain, compiled = small_classifier(), small_classifier()
    assert compile_parts(compiled, {"backend": backend}) == ["backbone"]
    original = torch._dynamo.utils.counters["frames"]["ok"]
    loss, gradients = loss_and_gradients(plain, batch)
    compiled_loss, compiled_gradients = loss_and_gradients(compiled, batch)
    assert torch._dynamo.utils.counters["frames"]["ok"] > original  # something was compiled
    assert compiled_loss == pytest.approx(loss, abs=1e-5)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    assert not any("_orig_mod" in name for name in compiled.state_dict())
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, compiled_gradients[name], rtol=1e-3, atol=1e-5)
    copied = copy.deepcopy(compiled)  # as EMA does
    assert list(copied.state_dict()) == list(plain.state_dict())


def test_a_model_without_parts_is_compiled_whole():
    model = nn.Linear(2, 2)
    assert compile_parts(model, {"backend": "eager"}) == ["model"]
    assert model(torch.ones(1, 2)).shape == (1, 2)


def test_compiling_for_the_cpu_needs_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match="no no-such-compiler"):
        require_compiler({}, "cpu")
    require_compiler({}, "cuda")
    require_compiler({"backend": "eager"}, "cpu")


# ---- precision -----------------------------------------------------------------------------------------------------


def test_bf16_trains_fp32_weights(batch):
    model = classifier()
    before = copy.deepcopy(model.state_dict())
    wrapper = Bfloat16OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    seen = {}
    model.head.register_forward_hook(lambda _m, _a, output: seen.update(logits=output.dtype))
    gradients = {}
    for name, parameter in model.named_parameters():
        parameter.register_hook(lambda g, name=name: gradients.update({name: g.dtype}))
    logged = model.train_step(batch, wrapper)
    assert seen["logits"] == torch.bfloat16
    assert logged["loss"].dtype == torch.float32
    assert set(gradients.values()) == {torch.float32}
    assert len(gradients) == len(list(model.parameters()))
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert not torch.equal(model.head.weight, before["head.weight"])
    assert all(s["momentum_buffer"].dtype == torch.float32 for s in wrapper.optimizer.state.values())
    plain = classifier().train_step(batch, OptimWrapper(torch.optim.SGD(classifier().parameters(), lr=0.1)))
    assert logged["loss"].item() == pytest.approx(plain["loss"].item(), rel=0.02)
    assert logged["loss"].item() != plain["loss"].item()  # it was another precision


def test_the_state_of_bf16_is_the_optimizers_alone(batch):
    model = classifier()
    wrapper = Bfloat16OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    model.train_step(batch, wrapper)
    plain = OptimWrapper(torch.optim.SGD(classifier().parameters(), lr=0.1, momentum=0.9))
    assert set(wrapper.state_dict()) == set(plain.state_dict())
    plain.load_state_dict(wrapper.state_dict())


def test_accumulated_gradients_in_bf16(batch):
    model = classifier()
    wrapper = Bfloat16OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), accumulative_counts=2)
    before = model.head.weight.clone()
    model.train_step(batch, wrapper)
    assert torch.equal(model.head.weight, before)
    model.train_step(batch, wrapper)
    assert not torch.equal(model.head.weight, before)


def test_the_loss_scale_of_fp16_is_saved_and_restored(monkeypatch):
    """mmengine's wrapper, with a scaler that works on the CPU in the place of CUDA's."""
    monkeypatch.setattr("mmengine.optim.optimizer.amp_optimizer_wrapper.is_cuda_available", lambda: True)

    def wrapper():
        weight = nn.Parameter(torch.ones(2))
        built = OPTIM_WRAPPERS.build(
            {"type": "AmpOptimWrapper", "dtype": "float16", "loss_scale": "dynamic",
             "optimizer": torch.optim.SGD([weight], lr=0.1)}
        )  # fmt: skip
        built.loss_scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
        return built, weight

    trained, weight = wrapper()
    for factor in (1.0, 1.0, float("inf"), 1.0):  # grows after two steps, and an overflow halves it
        trained.update_params((weight * factor).sum())
    state = trained.state_dict()
    assert state["loss_scaler"]["scale"] == 1024.0
    assert state["loss_scaler"]["_growth_tracker"] == 1
    resumed, _ = wrapper()
    resumed.loss_scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=2)
    resumed.load_state_dict(copy.deepcopy(state))
    assert resumed.loss_scaler.state_dict() == trained.loss_scaler.state_dict()


# ---- what the runner builds ----------------------------------------------------------------------------------------


def plan_of(**settings):
    return Plan(Device("cpu"), Resolution(Settings(**settings), {}))


def optimizer_wrapper(plan, **config):
    runner = accelerated(Runner, plan).__new__(accelerated(Runner, plan))
    runner.cfg = Config({"optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.1}, **config}})
    runner.model = nn.Linear(2, 2)
    return runner.build_optim_wrapper(runner.cfg.optim_wrapper), runner.cfg


@pytest.mark.parametrize(("precision", "kind"), [("fp32", OptimWrapper), ("bf16", Bfloat16OptimWrapper)])
def test_the_settled_precision_is_built_and_recorded(precision, kind):
    wrapper, cfg = optimizer_wrapper(plan_of(precision=precision), clip_grad={"max_norm": 1.0})
    assert type(wrapper) is kind
    assert wrapper.clip_grad_kwargs == {"max_norm": 1.0}
    assert cfg.optim_wrapper.get("type", "OptimWrapper") == kind.__name__


def test_fused_kernels_are_built_and_the_config_stays_readable():
    wrapper, cfg = optimizer_wrapper(plan_of(fused_optimizer=True))
    assert wrapper.optimizer.defaults["fused"] is True
    assert cfg.optim_wrapper.optimizer == {"type": "SGD", "lr": 0.1}
    for plan in (plan_of(), plan_of(fused_optimizer=False)):
        wrapper, cfg = optimizer_wrapper(plan, optimizer={"type": "SGD", "lr": 0.1, "fused": True})
        assert not wrapper.optimizer.defaults["fused"]
        assert cfg.optim_wrapper.optimizer.fused is True


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_model_is_laid_out_before_it_is_wrapped(channels_last):
    order = []

    class Base:
        def wrap_model(self, cfg, model):
            order.append(is_channels_last(model))
            return model

    accelerated(Base, plan_of(channels_last=channels_last))().wrap_model(None, classifier())
    assert order == [channels_last]


def test_process_wide_switches_are_set_and_given_back():
    def now():
        cudnn = torch.backends.cudnn
        return torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark

    before = now()
    for settings, expected in [
        (Settings(tf32=True, cudnn_benchmark=True), ("high", True, True)),
        (Settings(tf32=False), ("highest", False, False)),
        (Settings(), ("highest", True, False)),
    ]:
        with device_flags(settings, "cuda"):
            assert now() == expected
        assert now() == before
        with device_flags(settings, "cpu"):
            assert now() == before
    with pytest.raises(RuntimeError), device_flags(Settings(tf32=True), "cuda"):
        raise RuntimeError
    assert now() == before


# ---- averaged weights ----------------------------------------------------------------------------------------------


def test_the_average_is_the_slow_loops():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    average = WeightAverage(model, momentum=0.1)
    expected = None
    for _ in range(5):
        with torch.no_grad():
            model(torch.randn(4, 3, 6, 6))  # moves the statistics, and counts
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update_parameters(model)
        now = {name: value.clone() for name, value in model.state_dict().items()}
        if expected is None:
            expected = {name: value.double() for name, value in now.items()}
        for name, value in now.items():
            if name.endswith("num_batches_tracked"):
                expected[name] = value
            else:
                expected[name] = 0.9 * expected[name] + 0.1 * value.double()
    found = average.module.state_dict()
    assert found["1.num_batches_tracked"] == 5
    assert int(average.steps) == 5
    for name, value in expected.items():
        assert torch.allclose(found[name].double(), value.double(), atol=1e-6)
    with pytest.raises(ValueError, match=r"inside \(0, 1\)"):
        WeightAverage(model, momentum=1.0)


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

    def forward(self, inputs, mode="tensor"):
        output = self.layer(inputs)
        return {"loss": output.square().mean()} if mode == "loss" else output


class Watch:
    """A hook's worth of notes: the weights after every step, and those that validation sees."""

    def __init__(self):
        from mmengine.hooks import Hook

        outer = self

        class Notes(Hook):
            priority = "VERY_LOW"

            def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
                outer.steps.append({k: v.clone() for k, v in runner.model.state_dict().items()})

            def before_save_checkpoint(self, runner, checkpoint):
                outer.saved.append(copy.deepcopy(checkpoint))

        self.steps, self.saved, self.hook = [], [], Notes()


def toy_run(folder, *, epochs, resume=False, accumulate=1, plan=None):
    watch = Watch()
    torch.manual_seed(0)
    samples = [{"inputs": sample} for sample in torch.randn(24, 4)]  # six batches of four
    plan = plan or plan_of(ema=0.25)
    runner = accelerated(Runner, plan)(
        model=Toy(),
        work_dir=str(folder),
        train_dataloader=torch.utils.data.DataLoader(samples, batch_size=4),
        train_cfg={"by_epoch": True, "max_epochs": epochs},
        optim_wrapper={
            "type": "OptimWrapper",
            "optimizer": {"type": "SGD", "lr": 0.05, "momentum": 0.9},
            "accumulative_counts": accumulate,
        },
        custom_hooks=[{"type": "WeightAverageHook", "momentum": 0.25}, watch.hook],
        default_hooks={"checkpoint": {"type": "CheckpointHook", "interval": 1}, "logger": None},
        resume=resume,
        default_scope="mmengine",
        log_level="ERROR",
        experiment_name=f"toy{folder.name}{epochs}{resume}{accumulate}",
    )
    runner.train()
    return watch


def averaged(steps, momentum=0.25):
    average = {name: value.double() for name, value in steps[0].items()}
    for step in steps[1:]:
        for name, value in step.items():
            average[name] = (1 - momentum) * average[name] + momentum * value.double()
    return {name: value for name, value in average.items() if not name.endswith("num_batches_tracked")}


def test_a_checkpoint_holds_the_average_where_weights_are_looked_for_and_resumes_exactly(tmp_path):
    whole = toy_run(tmp_path / "whole", epochs=2)
    for index, steps in [(0, whole.steps[:6]), (1, whole.steps)]:
        saved = whole.saved[index]
        for name, value in averaged(steps).items():
            assert torch.allclose(saved["state_dict"][name].double(), value, atol=1e-6), name
        for name, value in steps[-1].items():  # what trains on
            assert torch.equal(saved["ema_state_dict"][f"module.{name}"], value)
        assert not torch.equal(saved["state_dict"]["layer.0.weight"], steps[-1]["layer.0.weight"])
    toy_run(tmp_path / "cut", epochs=1)
    rest = toy_run(tmp_path / "cut", epochs=2, resume=True)
    for key in ("state_dict", "ema_state_dict"):
        for name, value in whole.saved[-1][key].items():
            assert torch.equal(value, rest.saved[-1][key][name]), name


def test_accumulated_steps_are_averaged_once(tmp_path):
    watch = toy_run(tmp_path / "accumulated", epochs=1, accumulate=3)
    updates = [watch.steps[2], watch.steps[5]]
    assert torch.equal(watch.steps[0]["layer.0.weight"], watch.steps[1]["layer.0.weight"])
    for name, value in averaged(updates).items():
        assert torch.allclose(watch.saved[-1]["state_dict"][name].double(), value, atol=1e-6), name
