"""The only place that refuses user input.

Every refusal reads "`name` should <rule>. Got <value>. <remedy>.": which argument, what it should be,
what came instead, and what to do about it.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

FLOAT_TYPES = (torch.float32, torch.float64)


def refuse(name: str, rule: str, got: object, remedy: str, error: type[Exception] = ValueError) -> NoReturn:
    """Raise ``error`` with a message in the house grammar.

    Args:
        name: The argument, as the caller spells it.
        rule: What it should do or be, to be read after "should".
        got: What came instead.
        remedy: What the caller can do about it, a sentence without its full stop.
        error: The exception's class.

    Raises:
        error: Always.
    """
    refusal = error(f"`{name}` should {rule}. Got {got}. {remedy}.")
    refusal.is_refusal = True  # type: ignore[attr-defined]  # tells it from what a caller's model raises
    raise refusal


def describe(value: object) -> str:
    """Return a value's name in one line: tensors by type and shape, everything else by its type and repr."""
    if isinstance(value, Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        return f"a{'n' * kind.startswith('int')} {kind} tensor of shape {list(value.shape)}"
    if isinstance(value, str | int | float | bool | type(None)):
        return repr(value)
    text = " ".join(repr(value).split())
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


# ---------------------------------------------------------------- read and return: numbers, names, tensors


def as_integer(name: str, value: Any, minimum: float = -math.inf, maximum: float = math.inf) -> int:
    """Read an integer, NumPy's and a tensor's included, between two bounds.

    Returns:
        A Python int.
    """
    number = None
    with suppress(TypeError):
        number = operator.index(value)
    if number is None or isinstance(value, bool | np.bool_) or getattr(value, "dtype", None) == torch.bool:
        refuse(name, "be an integer", describe(value), "Pass an int", TypeError)
    if not minimum <= number <= maximum:
        upper = f" and at most {maximum}" if maximum < math.inf else ""
        refuse(name, f"be at least {minimum}{upper}", number, "Pass one in that range")
    return number


def as_number(name: str, value: Any, low: float, high: float = math.inf, *, open_low: bool = False) -> float:
    """Read a finite number, NumPy's and a tensor's included, between two bounds (``open_low`` excludes the lower one).

    Returns:
        A Python float, or int if it came as one.
    """
    if isinstance(value, np.generic) or (isinstance(value, Tensor | np.ndarray) and value.ndim == 0):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        refuse(name, "be a number", describe(value), "Pass a float", TypeError)
    if not math.isfinite(value) or value < low or value > high or (open_low and value == low):
        upper = f" and at most {high:g}" if high < math.inf else ""
        rule = f"be finite, {'above' if open_low else 'at least'} {low:g}{upper}"
        refuse(name, rule, value, "Pass a number in that range")
    return value


def as_list(name: str, value: Any, what: str) -> list[Any]:
    """Read a non-empty sequence, an array or a tensor as a list; strings are none.

    Returns:
        The items.
    """
    if isinstance(value, Tensor | np.ndarray):
        value = value.tolist()
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        refuse(name, f"be {what}", describe(value), "Pass a list", TypeError)
    items = list(value)
    if not items:
        refuse(name, f"be {what}, not empty", describe(value), "Pass at least one")
    return items


def as_positions(name: str, value: Any, size: int, what: str) -> list[int]:
    """Read indices of some of ``size`` things, ``what`` they are ("units of 'output'").

    Returns:
        Integers from 0 to size - 1.
    """
    indices = [as_integer(name, item) for item in as_list(name, value, "a list of indices")]
    for index in indices:
        if not 0 <= index < size:
            refuse(name, f"lie between 0 and {size - 1}, the {what}", index, "Drop or correct it")
    return indices


def as_tensor(
    name: str, got: Any, axes: str, *, kind: str = "float", like: Tensor | None = None, gaps: bool = False, **sizes: int
) -> Tensor:
    """Read a dense, finite, non-empty tensor of given axes; arrays and lists of numbers are taken too.

    Args:
        name: The argument, as the caller spells it.
        got: What came.
        axes: Its axes, "u m d"; alternatives are separated by "|", "..." stands for any number of them.
        kind: "float": float32 or float64 (lists of numbers become torch's default type); "int": integers, which
            become int64; "any": either of them as it is.
        like: A tensor whose precision (for floats) and device it has to share.
        gaps: Whether NaN is taken for a number that is missing.
        **sizes: Of axes that are known.

    Returns:
        The tensor, without its graph; one of inference mode is copied.
    """
    tensor = _tensor_of(name, got, kind, like)
    check_dense(name, tensor)
    if kind == "float" and tensor.dtype not in FLOAT_TYPES:
        refuse(name, "be float32 or float64", describe(tensor), f"Convert it with {name}.float()")
    if tensor.is_complex():
        refuse(name, "hold real numbers", describe(tensor), f"Take {name}.real or {name}.abs()", TypeError)
    if kind == "int":
        if tensor.is_floating_point() or tensor.dtype == torch.bool:
            refuse(name, "hold integers", describe(tensor), f"Convert it with {name}.long()")
        tensor = tensor.long()
    if not any(_has_axes(tensor, form.split(), sizes) for form in axes.split("|")):
        forms = [[str(sizes.get(axis, axis)) for axis in form.split()] for form in axes.split("|")]
        rule = "have shape " + " or ".join(f"[{', '.join(form)}]" for form in forms)
        remedy = f"Use {name}[None] for a single one" if tensor.ndim < len(forms[0]) else "Match the other arguments"
        refuse(name, rule, describe(tensor), remedy)
    if tensor.numel() == 0:
        refuse(name, "hold at least one number", describe(tensor), "Pass a non-empty one")
    if not is_finite(tensor) and (bad := int((tensor.isinf() if gaps else ~tensor.isfinite()).sum())):
        refuse(name, "be finite", f"{bad} NaN or infinite values of {tensor.numel()}", "Clean or drop them")
    if like is not None and (tensor.device != like.device or (kind == "float" and tensor.dtype != like.dtype)):
        rule = f"have the precision and device of the rest, {str(like.dtype).removeprefix('torch.')} on {like.device}"
        refuse(name, rule, f"{describe(tensor)} on {tensor.device}", f"Convert it with {name}.to(...)")
    return tensor.clone() if tensor.is_inference() else tensor


def _tensor_of(name: str, value: Any, kind: str, like: Tensor | None) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    try:
        if not (isinstance(value, list | tuple | int | float | np.generic) or hasattr(value, "__array__")):
            raise TypeError  # NumPy reads some others in its own way
        array = np.asarray(value)
        if array.dtype.kind not in "fiub" or (kind == "float" and array.dtype.kind == "b"):
            raise TypeError
        if not hasattr(value, "__array__"):  # Python's numbers have no precision of their own
            own = torch.get_default_dtype() if like is None else like.dtype
            is_float = kind == "float" or (kind == "any" and array.dtype.kind == "f")
            return torch.tensor(array.tolist(), dtype=own if is_float else None)
        return torch.from_numpy(np.ascontiguousarray(array).copy())
    except (TypeError, ValueError, RuntimeError):
        refuse(name, "be a tensor, or an array or list of numbers", describe(value), "Convert it", TypeError)


def _has_axes(tensor: Tensor, form: list[str], sizes: dict[str, int]) -> bool:
    """Whether a tensor has the axes "u m d" or "n d ...", as far as their sizes are known.

    Returns:
        True if so.
    """
    if "..." in form:
        form = form[:-1] + ["?"] * (tensor.ndim - len(form) + 1)
    return tensor.ndim == len(form) and all(sizes.get(a, n) == n for a, n in zip(form, tensor.shape, strict=True))


def check_module(model: object) -> None:
    """Refuse what is no module."""
    if not isinstance(model, nn.Module):
        refuse("model", "be a torch.nn.Module", describe(model), "Pass the network itself", TypeError)


def check_parameters(model: nn.Module) -> None:
    """Refuse modules whose parameters are not there yet, or not finite."""
    for key, parameter in model.named_parameters():
        if parameter.device.type == "meta" or isinstance(parameter, nn.parameter.UninitializedParameter):
            got = f"{key!r} without numbers (lazy, or on the meta device)"
            refuse("model", "have weights", got, "Load them, or run the network once")
        if parameter.is_inference():
            rule, got = "be made outside torch.inference_mode()", f"{key!r} made inside"
            refuse("model", rule, got, "Pass copy.deepcopy(model)")
        if parameter.is_floating_point() and not is_finite(parameter.detach()):
            refuse("model", "have finite parameters", f"NaN or infinity in {key!r}", "Train it again, or load it again")


def check_dense(name: str, value: Tensor) -> None:
    """Refuse tensors that do not hold a number for every entry: sparse ones, and those on the meta device."""
    if value.layout is not torch.strided:
        refuse(name, "be dense", f"{describe(value)}, sparse", f"Convert it with {name}.to_dense()")
    if value.device.type == "meta":
        refuse(name, "hold numbers", f"{describe(value)} on the meta device", "Load the numbers first")


def check_placement(model: nn.Module, x: Tensor, name: str = "x", *, any_precision: bool = False) -> None:
    """Refuse samples on another device, or of another precision, than the model's parameters."""
    parameter = next((p for p in model.parameters() if p.is_floating_point()), x)
    home, kind = parameter.device, parameter.dtype
    if x.device != home:
        refuse(name, f"be on the model's device, {home}", x.device, f"Move it with {name}.to('{home}')")
    if x.dtype != kind and not any_precision:
        refuse(name, f"have the model's precision, {kind}", x.dtype, f"Convert one of them, say {name}.to({kind})")


def check_choice(name: str, value: object, allowed: Iterable[str]) -> None:
    """Refuse a value that is not among a few named choices."""
    names = list(allowed)
    if value not in names:
        refuse(name, f"be one of {', '.join(map(repr, names))}", describe(value), "Choose one of them")


def check_path(name: str, value: object) -> None:
    """Refuse what names no file or folder (an open or closed file among others)."""
    if not isinstance(value, str | os.PathLike):
        refuse(name, "be a path", describe(value), "Pass a string or a pathlib.Path", TypeError)


def check_layer(name: str, value: object, known: Sequence[str]) -> None:
    """Refuse a layer name that the model does not have."""
    if not isinstance(value, str):
        remedy = "Use 'input' or a name out of model.named_modules()"
        refuse(name, "be a layer's name", describe(value), remedy, TypeError)
    if value not in known:
        shown = ", ".join(map(repr, known[:12])) + (", ..." if len(known) > 12 else "")
        refuse(name, "name a layer of the model", repr(value), f"Choose one of {shown}")


def is_finite(value: Tensor) -> bool:
    """Return whether all numbers are finite; cheap where they are, because then their sum usually is too."""
    return bool(value.sum().isfinite()) or bool(value.isfinite().all())


def check_finite_result(name: str, value: Tensor, where: str, x_name: str = "x") -> None:
    """Refuse to hand on gradients or activations that overflowed."""
    if not is_finite(value):
        got, remedy = "an overflow", f"Scale {x_name} down, or use float64"
        if bool(value.isnan().any()) and not bool(value.isinf().any()):
            got, remedy = "NaN", "Leave out the samples, or by `units=` the units, where the model is undefined"
        refuse(x_name, f"give finite {name} at {where!r}", got, remedy)


def check_per_sample(model: nn.Module) -> None:
    """Refuse modules that mix samples or draw random numbers, named with the remedy."""
    for name, module in model.named_modules():
        label = f"{type(module).__name__} at {name!r}" if name else type(module).__name__
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_mean is None):
            why = "in train mode, which normalizes over the batch" if module.training else "without running statistics"
            remedy = "Use track_running_stats=True" if module.running_mean is None else "Call model.eval() first"
            refuse("model", "treat every sample by itself", f"{label} {why}", remedy)
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0:
            refuse("model", "give the same output twice", f"{label} in train mode", "Call model.eval() first")


def try_forward(model: nn.Module, x: Tensor, name: str = "x") -> Tensor:
    """Run a model on samples of the caller's, turning its complaint into one about the argument they are from.

    Returns:
        Its output.
    """
    try:
        output = model(x)
    except (RuntimeError, IndexError, TypeError) as error:
        got = f"{describe(x)}, on which {type(model).__name__} stopped with: {error}"
        refuse(name, "fit the model", got, "Pass samples shaped as in training")
    if not isinstance(output, Tensor) or output.ndim < 2 or len(output) != len(x):
        refuse("model", "return one tensor with a row per sample", describe(output), "Wrap it in a module that does")
    return output


def as_names(name: str, value: Any, n: int | None = None, things: str = "units") -> list[str]:
    """Read a list of strings, one for each of n things (``None``: any number).

    Returns:
        The strings.
    """
    listed = as_list(name, value, "a list of names")
    if wrong := [item for item in listed if not isinstance(item, str)]:
        refuse(name, "hold strings", describe(wrong[0]), f"Convert them with map(str, {name})", TypeError)
    if n is not None and len(listed) != n:
        refuse(name, f"name each of {n} {things}", len(listed), "Name them all")
    return listed


# ---------------------------------------------------------------- read and return: embeddings and labels of units

LARGEST = 1e100  # squares of larger numbers overflow


def as_doubles(name: str, value: Any, axes: str = "u k", **sizes: Any) -> NDArray[np.float64]:
    """Read real numbers of any precision and of given axes (as in `as_tensor`), small enough to be squared.

    Returns:
        An array in float64.
    """
    if not isinstance(value, Tensor):
        with suppress(TypeError, ValueError, RuntimeError):  # what is no array is refused below
            array = np.asarray(value)
            value = array.astype(np.float64) if array.dtype.kind in "fiu" else value
    tensor = as_tensor(name, value, axes, kind="any", **sizes)
    if tensor.dtype == torch.bool:
        refuse(name, "hold real numbers", describe(tensor), "Pass floats or integers", TypeError)
    numbers: NDArray[np.float64] = tensor.double().numpy(force=True)
    if (largest := np.abs(numbers).max()) >= LARGEST:
        refuse(name, f"be finite, below {LARGEST:g}", f"{largest:.2g}", "Scale it down")
    return numbers


def as_categories(name: str, value: Any, n: int | None = None) -> NDArray[Any]:
    """Read one integer, boolean or string for each of n units (``None``: any number); tensors, arrays and columns too.

    Returns:
        The labels as they are, [u].
    """
    if isinstance(value, Tensor):
        check_dense(name, value)
    elif hasattr(value, "__array__"):
        value = np.asarray(value)
    items = as_list(name, value, "a sequence of labels")
    with_strings = {isinstance(item, str) for item in items}
    try:
        labels = np.array(items if len(with_strings) == 1 else None)
    except ValueError:  # rows of different lengths
        labels = np.array(None)
    if labels.dtype.kind not in "biuU":
        refuse(name, "hold integers, booleans or strings", describe(value), "Number the classes", TypeError)
    if labels.ndim != 1 or n not in (None, len(labels)):
        rule = f"hold one label for each of {'the' if n is None else n} units"
        refuse(name, rule, f"shape {list(labels.shape)}", "Pair them up")
    return labels


def as_labels(name: str, value: Any, n: int) -> NDArray[np.int64]:
    """Return labels, read as `as_categories` does, numbered from 0 in sorted order, [u]."""
    return np.unique(as_categories(name, value, n), return_inverse=True)[1].astype(np.int64)


def as_bool(name: str, value: Any) -> bool:
    """Return True or False, NumPy's as Python's; numbers are none."""
    if not isinstance(value, bool | np.bool_):
        refuse(name, "be True or False", describe(value), "Pass a bool", TypeError)
    return bool(value)


def check_kind(name: str, value: object, kind: type, remedy: str = "Build one") -> None:
    """Refuse what is no object of one of the library's classes."""
    if not isinstance(value, kind):
        refuse(name, f"be a {kind.__name__}", describe(value), remedy, TypeError)
