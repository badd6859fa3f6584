"""Ordinary calls and abuses: data, networks, training, gradients, interference, trees, task modules."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from _abuse import (
    CHOICE,
    COUNT,
    FINITE,
    INDEX,
    INTEGER,
    LAYER,
    NETWORK,
    NUMBER,
    SAME,
    SAMPLES,
    TYPE,
    VALUE,
    Subject,
    rows,
)
from _networks import Residual, write_clock
from safetensors.torch import save_file
from torch import Tensor, nn

import gradembed as ge


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


X, DIRECTIONS, waves = draw(12, 4), draw(2, 3, seed=1), ge.datasets.random_waves(3, 4)
HELD = {"layer": "hidden1", "units": [0, 3]}


def chain(dtype: torch.dtype = torch.float64) -> nn.Module:
    return ge.MLP([4, 5, 3], seed=0).to(dtype)


def smooth() -> nn.Module:
    return ge.MLP([4, 5, 3], nn.Tanh, seed=0).double()


def general() -> nn.Module:
    """A residual network with a layer norm."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Residual().double()


def split(**changes: Any) -> ge.datasets.Split:
    x, y = draw(18, 4, dtype=torch.float32), torch.arange(18) % 3
    given = {"x_train": x[:12], "y_train": y[:12], "x_test": x[12:], "y_test": y[12:], "name": "n", "source": "s"}
    return ge.datasets.Split(**(given | changes))


def config(**settings: Any) -> ge.TrainConfig:
    return ge.TrainConfig(**({"epochs": 2, "batch_size": 5, "progress": False} | settings))


def ensemble() -> ge.MLPEnsemble:
    return ge.MLPEnsemble([4, 5, 3], 3, seed=0).double()


def asked(network: Any = chain, **more: Any) -> dict[str, Any]:
    """What every question to a network takes."""
    return {"model": network(), "x": X.clone(), "forward": None, "unit_layer": "output"} | more


def gradient_arguments(network: Any = chain, **more: Any) -> dict[str, Any]:
    return asked(network, wrt="input", units=None, directions=None, chunk_size=None) | more


def interference_arguments(network: Any = chain, dtype: torch.dtype = torch.float64, **more: Any) -> dict[str, Any]:
    usual = asked(network, units=None, directions=None, chunk_size=None, layers=None, seed=0, confidence=0.9,
                  centered=True, n_readouts=16, reference=None, reinitialize=None)  # fmt: skip
    return usual | {"model": usual["model"].to(dtype), "x": usual["x"].to(dtype)} | more


def tree_arguments(network: Any = chain, tolerance: float | None = None) -> dict[str, Any]:
    return asked(network, layers=None, roots=None, mode="realised", max_nodes=200_000, tolerance=tolerance)


def module_arguments(**more: Any) -> dict[str, Any]:
    return asked(layer="hidden1", n_modules=2, units=None, directions=None, chunk_size=None) | more


def shown(result: Any) -> list[Any]:
    """A result, and everything that it makes of itself."""
    assert repr(result)
    return [result, result.to_frame()]


def means(pairing: str, **named: Any) -> list[Any]:
    """What does not count samples."""
    result = ge.interference(pairing=pairing, **named)
    return [result.cosine, result.abs_cosine, result.conflict, result.norm_similarity, result.norm]


def held(model: nn.Module, x: Tensor, layer: Any, units: Any, at: Any) -> Tensor:
    with ge.ablated(model, layer, units, at) as network:
        return network(x)


def clock(name: Any, root: Any) -> list[Tensor]:
    with TemporaryDirectory() as folder, torch.random.fork_rng():
        torch.manual_seed(0)
        write_clock(Path(folder), 0.5)
        network = ge.datasets.load_clock_pizza(name, root=folder if root is None else root)
    return [network(network.pairs())]


def components(**named: Any) -> list[Tensor]:
    labels, purity = ge.datasets.component_labels(**named)
    return [labels, purity]


def added(**named: Any) -> list[Tensor]:
    known = ge.datasets.train_addition_networks(**named)
    return [known.labels, known.purity, *known.networks.parameters()]


def multiplied(group: Any, seeds: Any, root: Any) -> list[Tensor]:
    table, draw = (torch.arange(5)[:, None] + torch.arange(5)) % 5, torch.Generator().manual_seed(0)
    parts = {
        f"{part}.1": torch.randn(shape, generator=draw)
        for part, shape in zip("ABU", [(5, 4), (5, 4), (4, 5)], strict=True)
    }
    with TemporaryDirectory() as folder:
        Path(folder, "groups").mkdir()
        save_file(parts | {"table": table}, Path(folder, "groups", "C5.safetensors"), metadata={"seeds": '["1"]'})
        known = ge.datasets.load_group_networks(group, seeds=seeds, root=folder if root is None else root)
    return [known.labels, known.purity, known.inputs]


def certified(**named: Any) -> list[Any]:
    result = ge.transplant(**named)
    assert repr(result)
    return [result, result.p_values, result.to_frame().drop(columns="verdict")]


def claimed(**more: Any) -> dict[str, Any]:
    model, donors = chain(), draw(12, 6, seed=2)
    asked = {"model": model, "x": X.clone(), "targets": torch.arange(12) % 3, "layer": "hidden1", "donors": donors,
             "claims": [([0, 1], [2, 3]), (4, 5)], "mapping": "scale", "forward": None, "score": None}  # fmt: skip
    return asked | {"tolerance": 0.01, "n_random": 19, "seed": 0} | more


def learn(model: nn.Module, config: Any, **changed: Any) -> list[Any]:
    run = ge.train(model, changed["split"] if "split" in changed else split(**changed), config)
    assert repr(run)
    return [run.model, run.history, run.test_accuracy, run.test_r2]


def watched(**named: Any) -> list[Any]:
    """A monitor, and all that it knows after a measurement."""
    monitor = ge.InterferenceMonitor(**named)
    monitor.step(0)
    return shown(monitor.course)


def monitor_arguments(network: Any = chain, **more: Any) -> dict[str, Any]:
    usual = {"model": network(), "probe": X.clone(), "forward": None, "on": "outputs", "layers": None, "units": None}
    return usual | {"centered": True, "n_readouts": 16, "reference": None, "seed": 0} | more


def recommended(**named: Any) -> list[Any]:
    found = ge.recommend_split(**named)
    assert repr(found)
    return [found.table, found.share]


def split_arguments() -> dict[str, Any]:
    usual = {"models": chain(), "probe": X.clone(), "forward": lambda model, x: model(x) ** 2, "layers": "hidden1"}
    return usual | {"on": "losses", "units": None, "level": "chance", "n_bootstrap": 20, "confidence": 0.9,
                    "n_readouts": 16, "reference": None, "seed": 0}  # fmt: skip


tree, measured = partial(ge.gradient_tree, chain(), X), partial(ge.interference, chain(), X)
ragged = partial(Subject, is_ragged=True)

SUBJECTS = {
    "Split": Subject(ge.datasets.Split, lambda: dict(vars(split()))),
    "load_iris": Subject(ge.datasets.load_iris, lambda: {"test_fraction": 0.2, "seed": 42}),
    "component_labels": Subject(components, lambda: {"weights": draw(6, 10), "least_purity": 0.8,
        "table": (torch.arange(5)[:, None] + torch.arange(5)) % 5}, 1e-6),
    "GroupNetworks": ragged(added, lambda: {"p": 5, "n_networks": 2, "n_hidden": 16, "seed": 0}),
    "train_addition_networks": ragged(added, lambda: {"p": 5, "n_networks": 2, "n_hidden": 16, "seed": 0}),
    "load_group_networks": Subject(multiplied, lambda: {"group": "C5", "seeds": [1], "root": None}),
    "load_clock_pizza": Subject(clock, lambda: {"name": "clock", "root": None}),
    "load_mnist": Subject(ge.datasets.load_mnist, lambda: {"root": "mnist", "source": "sample"}),
    "RandomWaves": Subject(lambda x: waves(x), lambda: {"x": X.clone()}),
    "RandomWaves.gradient": Subject(lambda x: waves.gradient(x), lambda: {"x": X.clone()}),
    "RandomWaves.subset": Subject(lambda indices: waves.subset(indices), lambda: {"indices": [2, 0]}),
    "StackedSplit.resample": Subject(lambda seed: ge.datasets.stack_tasks(split(), seed=3).resample(seed),
        lambda: {"seed": 1}),
    "random_waves": ragged(ge.datasets.random_waves, lambda: {"n_functions": 3, "dim": 4, "seed": 0, "n_waves": 4,
        "roughness": 1.0}),
    "soft_mixing": Subject(ge.datasets.soft_mixing, lambda: {"mixing": 0.2, "n_samples": 50, "seed": 0}),
    "stack_tasks": ragged(ge.datasets.stack_tasks, lambda: {"split": split(), "n_tasks": 2, "features": [0, 2],
        "seed": 0, "n_samples": 20}),
    "MLP": ragged(ge.MLP, lambda: {"widths": [4, 5, 3], "activation": nn.ReLU, "seed": 0}),
    "MLPEnsemble": ragged(ge.MLPEnsemble, lambda: {"widths": [4, 5, 3], "n_members": 2, "activation": nn.ReLU,
        "seed": 0}),
    "MLPEnsemble.forward": Subject(lambda x: ensemble()(x), lambda: {"x": X.clone()}),
    "MLPEnsemble.activations": Subject(lambda x: ensemble().activations(x), lambda: {"x": X.clone()}),
    "MLPEnsemble.getitem": ragged(lambda index: ensemble()[index], lambda: {"index": [0, 2]}),
    "MLPEnsemble.from_members": ragged(
        ge.MLPEnsemble.from_members, lambda: {"members": [ge.MLP([4, 3], seed=0), ge.MLP([4, 3], seed=1)]}),
    "TrainConfig": Subject(lambda **settings: vars(ge.TrainConfig(**settings)), lambda: dict(vars(config()))),
    "TrainConfig.for_waves": Subject(lambda **s: vars(ge.TrainConfig.for_waves(**s)), lambda: {"dim": 2, "seed": 0}),
    "train": Subject(learn, lambda: {"model": chain(torch.float32), "split": split(), "config": config()}, 1e-4,
        trains=True),
    # what comes of strange data
    "TrainingRun": ragged(learn, lambda: {"model": chain(torch.float32), "config": config()} | vars(split()), 1e-4,
        trains=True),
    "train_ensemble": ragged(ge.train_ensemble, lambda: {"target": split(), "widths": [4, 5, 3], "n_members": 2,
        "config": config(), "n_samples": None, "group_size": None, "activation": nn.ReLU}, 1e-4),
    "train_ensemble of a function": ragged(ge.train_ensemble, lambda: {"target": torch.sin, "widths": [1, 5, 1],
        "n_members": 2, "config": config(), "n_samples": 20}, 1e-4),
    "untrained": Subject(ge.untrained, lambda: {"model": chain(), "seed": 0, "reinitialize": None}),
    "Site": ragged(lambda **named: ge.Site(**named).part(draw(2, 3, 4)), lambda: {"name": "a", "element": 1,
        "index": (slice(None), 1), "mean": None, "call": None, "input": False}),
    "UnitGradients.unit_vectors": Subject(vectors := lambda **named: ge.unit_gradients(**named).unit_vectors(),
        gradient_arguments),
    "UnitGradients.unit_vectors, general": Subject(vectors, partial(gradient_arguments, general)),
    "unit_gradients": Subject(ge.unit_gradients, gradient_arguments),
    "unit_gradients, general": Subject(ge.unit_gradients, partial(gradient_arguments, general)),
    "unit_gradients of units": Subject(ge.unit_gradients, lambda: gradient_arguments(units=[0, 2])),
    "unit_gradients of directions": Subject(ge.unit_gradients, lambda: gradient_arguments(directions=DIRECTIONS)),
    # with everything that can be asked for
    "Interference": Subject(lambda **named: shown(ge.interference(n_bootstrap=20, n_untrained=1, **named)),
        interference_arguments),
    "Interference, means over realised pairs": Subject(partial(means, "realised"), asked),
    "Interference, means over all pairs": Subject(partial(means, "all"), asked),
    "Interference.orthogonality": Subject(
        lambda groups: measured().orthogonality(groups), lambda: {"groups": [0, 0, 1]}),
    "Interference.pair_mean": Subject(lambda measure, layer: measured().pair_mean(measure, layer),
        lambda: {"measure": "cosine", "layer": "input"}),
    "interference": Subject(ge.interference, lambda: interference_arguments(pairing="realised")),
    "interference, general": Subject(ge.interference, partial(interference_arguments, general)),
    "interference, single": Subject(ge.interference, partial(interference_arguments, chain, torch.float32), 1e-3),
    "interference, all pairs": Subject(partial(ge.interference, pairing="all"), interference_arguments),
    "interference of units": Subject(ge.interference, lambda: interference_arguments(units=[0, 2]), is_ragged=True),
    "interference of directions": Subject(ge.interference, lambda: interference_arguments(
        centered=False, directions=DIRECTIONS), is_ragged=True),
    "interference of counts": Subject(ge.interference, lambda: asked(n_bootstrap=5, n_untrained=0)),
    "InterferenceMonitor": ragged(watched, lambda: monitor_arguments(every=50, log=None)),
    "InterferenceMonitor, general": ragged(watched, partial(monitor_arguments, general, every=50)),
    "training_course": ragged(lambda **named: shown(ge.training_course(**named)),
        lambda: monitor_arguments(checkpoints=[chain().state_dict()])),
    "TrainingCourse": ragged(lambda **named: shown(ge.training_course(**named)),
        lambda: monitor_arguments(checkpoints={7: chain().state_dict()})),
    "recommend_split": ragged(recommended, split_arguments),
    "SplitRecommendation": ragged(recommended, split_arguments),
    "GradientTree": ragged(lambda **named: shown(ge.gradient_tree(**named)), tree_arguments),
    "GradientTree.subtree": ragged(lambda layer, node: tree().subtree(layer, node), lambda: {"layer": "hidden1",
        "node": 1}),
    "GradientTree.similarity": Subject(lambda layer: tree().similarity(layer), lambda: {"layer": "input"}),
    "GradientTree.largest": ragged(lambda layer, k: tree().largest(layer, k), lambda: {"layer": "input", "k": 3}),
    "gradient_tree": ragged(ge.gradient_tree, tree_arguments),
    "gradient_tree, smooth": ragged(ge.gradient_tree, partial(tree_arguments, smooth, 0.01)),
    "gradient_tree, general": ragged(ge.gradient_tree, partial(tree_arguments, general, 0.01)),
    "TaskModules": Subject(lambda **named: shown(ge.task_modules(**named)), module_arguments),
    "task_modules of units": Subject(ge.task_modules, lambda: module_arguments(units=[0, 2])),
    "task_modules of directions": Subject(ge.task_modules, lambda: module_arguments(directions=DIRECTIONS)),
    "TaskModules.units": ragged(lambda module: ge.task_modules(chain(), X, "hidden1").units(module),
        lambda: {"module": 1}),
    "task_modules": Subject(ge.task_modules, module_arguments),
    "transplant": Subject(ge.transplant, claimed), "Transplants": Subject(certified, claimed),
    "ablated": Subject(held, lambda: HELD | {"model": chain(), "x": X.clone(), "at": 0.5}),
    "ablated at the means": Subject(held, lambda: HELD | {"model": chain(), "x": X.clone(), "at": draw(5)}),
}  # fmt: skip

# Whatever takes samples and a network, in the same words.
NETWORKS = NETWORK | dict.fromkeys(["NaN weights", "infinite weights", "lazy network"], VALUE)
NETWORKS |= {"half network": "ValueError: x", "meta network": "ValueError: x|model", "other precision": "ValueError: x"}
NETWORKS |= dict.fromkeys(["dropout", "batch norm"], VALUE) | dict.fromkeys(["frozen", "eval"], SAME)
NETWORKS |= dict.fromkeys(["dead", "dead ReLUs", "weights 1e30", "weights 1e-30"], FINITE)
CHUNK = COUNT | {"none": SAME, "one": SAME, "two": SAME, "many": SAME}
UNITS = dict.fromkeys(["string", "floats in it", "bools in it", "None in it", "integer"], TYPE)
UNITS |= dict.fromkeys(["nothing", "far away", "negative in it", "strings in it"], VALUE)
UNITS |= dict.fromkeys(["as a tuple", "as a tensor", "as an array"], SAME)
LABELED = UNITS | {"as strings": SAME}
LAYERS = {"string": VALUE, "integer": TYPE, "dictionary": TYPE, "nothing": VALUE, "none": SAME}
DIRECTED = {"string": TYPE} | dict.fromkeys(["strided", "requires grad", "numpy"], SAME)
DIRECTED |= dict.fromkeys(["empty", "one column", "one axis", "NaN", "inf", "zeros", "longs", "meta", "complex"], VALUE)
DIRECTED |= dict.fromkeys(["one row", "1e30", "1e-30", "list"], FINITE) | {"half": VALUE}
ASKED = SAMPLES | dict.fromkeys(["list", "numpy", "frame", "in a tuple", "in a mapping", "in batches"], SAME)
OFF_CHAIN = dict.fromkeys(["in a tuple", "in a mapping"], FINITE)  # there chance looks at fewer samples
ASKED |= {"one column": VALUE, "dictionary": TYPE, "batches of nothing": r"TypeError: x\[0\]"}
WHOLE = ASKED | {"in batches": VALUE}  # all samples at once
FORWARD = dict.fromkeys(["string", "integer", "list"], TYPE) | {"none": SAME, "function": "ValueError: model"}
PROBE = dict.fromkeys(["string", "none", "dictionary", "in batches"], TYPE) | {"one row": VALUE, "one column": VALUE}
PROBE |= {"numpy": SAME, "list": SAME, "half": VALUE, "NaN": VALUE, "inf": VALUE, "empty": VALUE, "strided": SAME}
PROBE |= {"zeros": FINITE, "1e-30": FINITE, "requires grad": SAME, "meta": VALUE, "sparse": VALUE}
WATCHED_NETWORKS = NETWORK | dict.fromkeys(["NaN weights", "infinite weights", "lazy network"], VALUE)
WATCHED_NETWORKS |= {"half network": "ValueError: probe", "other precision": "ValueError: probe"}
WATCHED_NETWORKS |= dict.fromkeys(["dropout", "batch norm", "weights 1e30", "weights 1e-30"], FINITE)
WATCHED_NETWORKS |= {"dead": FINITE, "dead ReLUs": FINITE, "frozen": SAME, "eval": SAME, "ensemble": VALUE}
FLAG = dict.fromkeys(["string", "none", "integer"], TYPE) | {"bool": SAME}
WATCHED = {
    "forward": FORWARD,
    "on": CHOICE,
    "layers": LAYERS,
    "seed": INTEGER,
    "centered": FLAG,
    "n_readouts": INTEGER,
    "reference": LAYER | {"none": SAME},
    "units": {"string": TYPE, "nothing": VALUE, "far away": VALUE},
}
PART = SAMPLES | {"1e30": FINITE, "one row": "ValueError: y_train", "doubled": "ValueError: y_train"}
CLASSES = dict.fromkeys(["string", "none", "list", "numpy"], TYPE) | {"another axis": VALUE}
CLASSES |= dict.fromkeys(["empty", "shorter", "negative first", "half", "bools", "scalar", "meta"], VALUE)
WIDTHS = dict.fromkeys(["nothing", "one item", "negative in it"], VALUE) | {"None in it": TYPE}
WIDTHS |= dict.fromkeys(["string", "none", "integer", "floats in it", "bools in it", "strings in it"], TYPE)
WAVED = (
    SAMPLES | dict.fromkeys(["one column", "another axis"], VALUE) | {"list": FINITE, "numpy": SAME, "frame": FINITE}
)
SEED = {abuse: kind for abuse, kind in INTEGER.items() if abuse != "none"}
ACTIVATION = dict.fromkeys(["string", "none", "function", "tensor", "list"], TYPE)

TABLE = rows({
    # data
    "Split": {"x_train": PART | dict.fromkeys(["requires grad", "strided", "list", "numpy", "frame"], SAME),
        "y_train": CLASSES | dict.fromkeys(["list", "numpy"], SAME),
        "x_test": {"one column": VALUE, "NaN": VALUE, "one row": "ValueError: y_test", "string": TYPE}},
    "load_iris": {"test_fraction": NUMBER | dict.fromkeys(["tensor", "zero", "one", "huge", "tiny"], VALUE),
        "seed": INTEGER},
    "component_labels": {"weights": dict.fromkeys(["string", "none"], TYPE) | {"NaN": VALUE, "inf": VALUE,
        "numpy": SAME, "zeros": FINITE},
        "table": {"string": TYPE, "none": TYPE, "floats": VALUE, "zeros": VALUE, "numpy": SAME},
        "least_purity": dict.fromkeys(["string", "none", "bool", "list"], TYPE) | {"nan": VALUE, "two": VALUE}},
    "GroupNetworks": {"seed": INTEGER},
    "train_addition_networks": {"p": COUNT | {"one": VALUE}, "n_networks": COUNT, "n_hidden": COUNT | {"one": VALUE},
        "seed": INTEGER},
    "load_group_networks": {"group": dict.fromkeys(["none", "integer", "object"], TYPE),
        "seeds": dict.fromkeys(["string", "integer", "floats in it"], TYPE) | {"far away": VALUE, "nothing": VALUE},
        "root": dict.fromkeys(["integer", "closed file", "object"], TYPE)},
    "load_clock_pizza": {"name": CHOICE, "root": dict.fromkeys(["integer", "closed file", "object"], TYPE)},
    "load_mnist": {"root": dict.fromkeys(["none", "integer", "closed file", "object", "bytes"], TYPE),
        "source": CHOICE},
    "RandomWaves": {"x": WAVED}, "RandomWaves.gradient": {"x": WAVED},
    "RandomWaves.subset": {"indices": {"string": TYPE, "none": TYPE, "integer": TYPE, "nothing": VALUE,
        "far away": INDEX, "floats in it": TYPE, "bools in it": TYPE, "as a tuple": SAME, "as a tensor": SAME,
        "as an array": SAME}},
    "StackedSplit.resample": {"seed": INTEGER},
    "random_waves": {"n_functions": COUNT | {"one": FINITE}, "dim": COUNT | {"one": FINITE},
        "n_waves": COUNT | {"one": FINITE}, "seed": INTEGER, "roughness": NUMBER | {"zero": VALUE, "tensor": FINITE}},
    "soft_mixing": {"mixing": NUMBER | {"tensor": VALUE, "two": VALUE, "zero": FINITE, "one": VALUE, "tiny": FINITE},
        "n_samples": COUNT | {"one": VALUE}, "seed": INTEGER},
    "stack_tasks": {"split": dict.fromkeys(["string", "none", "list", "object"], TYPE),
        "n_tasks": COUNT | {"two": SAME},
        "features": UNITS | {"none": FINITE, "twice the same": VALUE, "strings in it": TYPE}, "seed": INTEGER,
        "n_samples": COUNT | {"none": FINITE, "one": FINITE}},
    # networks and training
    "MLP": {"widths": WIDTHS, "activation": ACTIVATION,
        "seed": SEED},
    "MLPEnsemble": {"widths": WIDTHS, "activation": ACTIVATION, "n_members": COUNT | {"one": FINITE},
        "seed": SEED},
    "MLPEnsemble.forward": {"x": {"string": TYPE, "none": TYPE, "list": FINITE, "numpy": SAME, "one column": VALUE,
        "scalar": VALUE, "meta": VALUE, "half": VALUE, "longs": VALUE, "strided": SAME, "one row": FINITE,
        "requires grad": SAME}},
    "MLPEnsemble.activations": {"x": {"string": TYPE, "one column": VALUE, "half": VALUE, "strided": SAME}},
    "MLPEnsemble.getitem": {"index": {"string": TYPE, "none": TYPE, "float": TYPE, "nothing": VALUE, "far away": INDEX,
        "floats in it": TYPE, "as a tensor": SAME, "as an array": SAME, "as a tuple": SAME, "twice the same": FINITE}},
    "MLPEnsemble.from_members": {"members": {"string": TYPE, "none": TYPE, "integer": TYPE, "nothing": VALUE,
        "strings in it": TYPE, "None in it": TYPE, "one item": FINITE, "as a tuple": SAME}},
    "TrainConfig": {"epochs": COUNT, "batch_size": COUNT, "max_shift": INTEGER, "seed": INTEGER,
        "learning_rate": NUMBER | {"zero": VALUE, "tensor": FINITE},
        "weight_decay": NUMBER | {"zero": FINITE, "tensor": FINITE},
        "device": dict.fromkeys(["string", "none", "integer", "list"], VALUE),
        "progress": {"string": TYPE, "none": TYPE, "integer": TYPE}},
    "TrainConfig.for_waves": {"dim": COUNT | {"one": FINITE}, "seed": INTEGER},
    "train": {"model": NETWORK | {"NaN weights": VALUE, "infinite weights": VALUE, "frozen": VALUE,
        "lazy network": VALUE, "without parameters": VALUE, "half network": VALUE + ": split",
        "other precision": VALUE + ": split", "meta network": VALUE, "dead": FINITE, "dead ReLUs": FINITE, "eval": SAME,
        "weights 1e30": "FloatingPointError: config.learning_rate", "weights 1e-30": FINITE, "ensemble": VALUE},
        "split": dict.fromkeys(["string", "none", "list", "class", "dictionary"], TYPE),
        "config": dict.fromkeys(["string", "list", "class", "dictionary"], TYPE)},
    "TrainingRun": {"x_train": {"strided": SAME, "requires grad": SAME, "1e-30": FINITE, "zeros": FINITE,
        "expanded": FINITE, "1e30": FINITE}, "x_test": {"1e30": FINITE, "zeros": FINITE, "requires grad": SAME},
        "y_train": {"zeros": FINITE, "large first": "ValueError: model"}},
    "train_ensemble": {"target": dict.fromkeys(["string", "none", "object", "dictionary"], TYPE) | {"list": VALUE,
        "nothing": VALUE}, "widths": WIDTHS, "n_members": COUNT | {"one": FINITE},
        "config": {"string": TYPE, "dictionary": TYPE}, "n_samples": {"one": VALUE, "string": VALUE},
        "group_size": CHUNK, "activation": ACTIVATION},
    "train_ensemble of a function": {
        "target": {"function": TYPE} | dict.fromkeys(["none", "string"], "ValueError: n_samples"),
        "n_samples": {key: kind for key, kind in COUNT.items() if key != "none"} | {"one": FINITE}},
    "untrained": {"model": NETWORK | {"NaN weights": SAME, "dead": SAME, "frozen": SAME, "eval": SAME}, "seed": INTEGER,
        "reinitialize": {"string": TYPE, "integer": TYPE, "list": TYPE, "none": SAME, "function": VALUE}},
    # gradients
    "Site": {"name": {"string": SAME, "none": TYPE, "integer": TYPE, "list": TYPE},
        "element": {"string": SAME, "none": SAME, "float": TYPE, "bool": TYPE, "list": TYPE},
        "index": {"string": TYPE, "integer": VALUE, "float": TYPE, "nothing": VALUE, "none": FINITE},
        "mean": {"string": TYPE, "zero": VALUE, "one": FINITE, "float": TYPE, "bool": TYPE, "nothing": VALUE},
        "call": {"string": TYPE, "negative": VALUE, "float": TYPE, "bool": TYPE, "zero": SAME, "list": TYPE},
        "input": FLAG},
    "unit_gradients": {"x": ASKED, "model": NETWORKS | {"ensemble": VALUE}, "wrt": LAYER, "unit_layer": LAYER,
        "forward": FORWARD, "chunk_size": CHUNK},
    "unit_gradients, general": {"x": ASKED, "model": NETWORKS, "chunk_size": CHUNK},
    "UnitGradients.unit_vectors": {"x": ASKED,
        "model": {"dead": FINITE, "weights 1e-30": FINITE, "weights 1e30": FINITE}},
    "UnitGradients.unit_vectors, general": {"x": ASKED},
    "unit_gradients of units": {"units": LABELED | {"one item": FINITE, "twice the same": FINITE}},
    "unit_gradients of directions": {"directions": DIRECTED},
    # interference
    "interference": {"x": ASKED | OFF_CHAIN, "model": NETWORKS, "layers": LAYERS, "unit_layer": LAYER,
        "forward": FORWARD, "pairing": CHOICE, "chunk_size": CHUNK, "seed": INTEGER, "centered": FLAG,
        "n_readouts": INTEGER, "reference": LAYER | {"none": SAME},
        "reinitialize": dict.fromkeys(["string", "integer", "list"], TYPE) | {"none": SAME},
        "confidence": NUMBER | {"zero": VALUE, "one": VALUE, "tensor": VALUE}},
    "interference, general": {"x": ASKED, "model": NETWORKS},
    "InterferenceMonitor": WATCHED | {"probe": PROBE, "model": WATCHED_NETWORKS, "every": COUNT,
        "log": dict.fromkeys(["string", "integer", "list"], TYPE) | {"none": SAME, "function": SAME}},
    "InterferenceMonitor, general": {"probe": PROBE, "model": WATCHED_NETWORKS},
    "training_course": WATCHED | {"probe": PROBE, "model": NETWORK | {"dropout": "ValueError: checkpoints"},
        "checkpoints": dict.fromkeys(["string", "none", "integer", "object"], TYPE) | {
            "nothing": VALUE, "dictionary": VALUE, "strings in it": VALUE, "None in it": VALUE, "as a tuple": SAME}},
    "TrainingCourse": {"probe": {"zeros": FINITE, "1e30": FINITE, "1e-30": FINITE}},
    "recommend_split": {name: rows for name, rows in WATCHED.items() if name not in ("centered", "layers", "forward",
        "on", "n_readouts", "units")} | {"models": dict.fromkeys(["string", "none", "integer"], TYPE) | {"list": SAME},
        "probe": PROBE, "forward": dict.fromkeys(["string", "integer", "list"], TYPE) | {"none": VALUE},
        "on": CHOICE, "level": CHOICE, "n_bootstrap": COUNT, "n_readouts": COUNT | {"one": VALUE},
        "units": {"string": TYPE, "nothing": VALUE},
        "layers": {"integer": TYPE, "dictionary": TYPE, "nothing": VALUE, "none": FINITE},
        "confidence": NUMBER | {"zero": VALUE, "one": VALUE, "tensor": VALUE}},
    "SplitRecommendation": {"probe": {"zeros": FINITE, "1e-30": FINITE}, "models": {"dead": FINITE}},
    "interference, all pairs": {"x": ASKED | OFF_CHAIN | {"in batches": "ValueError: pairing"},
        "model": {"dead": FINITE, "dead ReLUs": FINITE, "frozen": SAME}},
    "interference, single": {"x": {"1e30": FINITE, "1e-30": FINITE, "zeros": FINITE, "half": VALUE, "strided": SAME},
        "model": {"weights 1e30": VALUE + ": x", "weights 1e-30": FINITE, "dead": FINITE}},
    "interference of units": {"units": LABELED | {"one item": FINITE, "twice the same": FINITE}},
    "interference of directions": {"directions": DIRECTED},
    "interference of counts": {"n_bootstrap": INTEGER, "n_untrained": INTEGER},
    "Interference": {"x": {"one row": FINITE, "zeros": FINITE, "expanded": FINITE, "1e30": FINITE, "1e-30": FINITE},
        "model": {"dead": FINITE, "dead ReLUs": FINITE, "weights 1e-30": FINITE}},
    "Interference, means over realised pairs": {"x": {"doubled": SAME, "strided": SAME, "requires grad": SAME}},
    "Interference, means over all pairs": {"x": {"doubled": SAME, "strided": SAME, "requires grad": SAME}},
    "Interference.orthogonality": {"groups": {"string": TYPE, "integer": TYPE,
        "none": FINITE} | dict.fromkeys(["nothing", "too few", "too many", "twice the same", "nested"],
        VALUE) | dict.fromkeys(["as a tuple", "as strings", "as an array"], SAME)},
    "Interference.pair_mean": {"measure": CHOICE, "layer": LAYER},
    # trees
    "gradient_tree, smooth": {"x": WHOLE,
        "model": {"dead": FINITE, "weights 1e-30": FINITE, "frozen": SAME, "NaN weights": VALUE}, "forward": FORWARD,
        "tolerance": NUMBER | {"none": VALUE, "huge": VALUE, "tiny": FINITE, "tensor": VALUE}},
    "gradient_tree, general": {"x": WHOLE,
        "model": {"dead": FINITE, "weights 1e-30": FINITE, "frozen": SAME, "dropout": VALUE}},
    "gradient_tree": {"x": WHOLE | dict.fromkeys(["in a tuple", "in a mapping"], "ValueError: tolerance"),
        "model": NETWORKS, "layers": LAYERS, "roots": {"string": TYPE, "integer": TYPE, "nothing": VALUE, "none": SAME},
        "unit_layer": LAYER, "forward": {"string": TYPE}, "mode": CHOICE, "max_nodes": COUNT},
    "GradientTree": {"x": {"one row": FINITE, "zeros": FINITE, "expanded": FINITE, "1e30": FINITE, "1e-30": FINITE},
        "model": {"dead": FINITE, "dead ReLUs": FINITE}},
    "GradientTree.subtree": {"layer": LAYER, "node": INTEGER | {"many": VALUE}},
    "GradientTree.similarity": {"layer": LAYER},
    "GradientTree.largest": {"layer": LAYER, "k": COUNT | {"many": FINITE}},
    # task modules
    "task_modules": {"x": ASKED | {"doubled": SAME} | dict.fromkeys(["one row", "1e-30", "zeros", "expanded"],
        "ValueError: n_modules"),
        "model": NETWORKS | dict.fromkeys(["dead", "dead ReLUs", "weights 1e-30"], "ValueError: n_modules"),
        "layer": LAYER, "unit_layer": LAYER, "forward": FORWARD, "n_modules": COUNT | {"one": VALUE, "many": VALUE},
        "chunk_size": CHUNK},
    "task_modules of units": {"units": LABELED | {"one item": "ValueError: n_modules"}},
    "task_modules of directions": {"directions": DIRECTED | {"one row": "ValueError: n_modules"}},
    "TaskModules": {"x": {"1e30": FINITE, "1e-30": "ValueError: n_modules"}},
    "TaskModules.units": {"module": INTEGER | {"many": VALUE}},
    "transplant": {"model": NETWORK | {"ensemble": VALUE, "frozen": SAME, "dead": FINITE},
        "x": {"string": TYPE, "none": TYPE, "empty": VALUE, "NaN": VALUE, "half": VALUE, "one row": VALUE,
              "shorter": "ValueError: targets", "strided": SAME, "zeros": FINITE},
        "targets": {"string": TYPE, "none": TYPE, "floats": VALUE, "bools": VALUE, "shorter": VALUE, "numpy": SAME,
                    "negative first": VALUE, "large first": VALUE, "list": SAME, "zeros": FINITE},
        "layer": LAYER, "forward": {"string": TYPE}, "score": {"string": TYPE, "function": VALUE},
        "donors": {"string": TYPE, "none": TYPE, "NaN": VALUE, "inf": VALUE, "shorter": VALUE, "one axis": VALUE,
                   "numpy": SAME, "strided": SAME, "zeros": FINITE, "1e-30": FINITE, "requires grad": SAME},
        "claims": {"string": TYPE, "none": TYPE, "nothing": VALUE, "floats in it": TYPE, "far away": TYPE,
                   "as a tuple": SAME},
        "mapping": CHOICE, "tolerance": NUMBER | {"tensor": FINITE}, "n_random": COUNT | {"one": VALUE},
        "seed": INTEGER},
    "Transplants": {"x": {"zeros": FINITE, "expanded": FINITE, "1e-30": FINITE}, "donors": {"expanded": FINITE}},
    "ablated": {"model": NETWORK | {"ensemble": VALUE, "frozen": SAME, "dead": FINITE}, "layer": LAYER,
        "units": UNITS | {"twice the same": FINITE, "strings in it": TYPE},
        "at": NUMBER | {"string": TYPE, "negative": FINITE, "tensor": FINITE, "list": VALUE}},
    "ablated at the means": {"at": {"NaN": VALUE, "inf": VALUE, "shorter": VALUE, "another axis": VALUE, "list": FINITE,
        "numpy": SAME, "strided": SAME, "meta": VALUE, "complex": TYPE, "half": FINITE}},
})  # fmt: skip
