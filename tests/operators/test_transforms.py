"""Inside jit, vmap, grad, compile and graphs the operator is the one that it is outside."""

import functools
import math
import shutil

import numpy as np
import pytest

import foolbox_carescale as fc
from tests import backends, reference

ORDERS = (0.5, 1.0, 1.5, 2.0, math.inf)
OPERATORS = {
    "eta": fc.clipping_aware_rescaling,
    "perturb": fc.perturb,
    "project": lambda x, v, eps, **kw: fc.project(x + v, x, eps, **kw),
    "steepest_step": fc.steepest_step,
    "reachable_norm": lambda x, v, eps, **kw: fc.reachable_norm(x, v, **kw),
}
TABLE = [(n, p) for n in OPERATORS for p in ORDERS if n != "steepest_step" or p >= 1]
each_operator = pytest.mark.parametrize(("name", "p"), TABLE)
# where every order is one more program to compile: the closed forms and one general order
CONVEX = [(n, p) for n, p in TABLE if p >= 1 and (p != 1.5 or n in ("eta", "perturb"))]
each_convex = pytest.mark.parametrize(("name", "p"), CONVEX)
# where a program takes seconds to compile: each operator with one order or more, each order; by
# day each operator with one
FEW = [
    *(("eta", p) for p in (1.0, 1.5)),
    *(("perturb", p) for p in (2.0, math.inf)),
    *(("project", p) for p in (1.0, math.inf)),
    *(("steepest_step", p) for p in (1.0, 2.0)),
    ("reachable_norm", 2.0),
]
ONCE = [
    ("eta", 1.5),
    ("perturb", 2.0),
    ("project", math.inf),
    ("steepest_step", 1.0),
    ("reachable_norm", 2.0),
]
# each operator once more, with other orders
OTHERS = [
    ("eta", 1.0),
    ("perturb", math.inf),
    ("project", 1.0),
    ("steepest_step", 2.0),
    ("reachable_norm", 2.0),
]
each_once = pytest.mark.parametrize(("name", "p"), backends.by_day(ONCE, FEW))
SHAPE = (4, 3, 5)


def inputs(seed=3, shape=SHAPE):
    x, delta = reference.case("uniform", shape=shape, seed=seed)
    return x, delta, np.resize([0.3, 0.7, 0.1, 1.1], shape[0])


def outside(name, p, *arguments):
    """Return the same on NumPy arrays, which nothing transforms."""
    return OPERATORS[name](*arguments, p=p)


def gradients(p, x, delta, eps, name="perturb"):
    """Return the gradients of the sum of squares, by torch without any transformation."""
    import torch

    tensors = [torch.tensor(t, requires_grad=True) for t in (x, delta, eps)]
    total = (OPERATORS[name](*tensors, p=p) ** 2).sum()
    return [g.detach().numpy() for g in torch.autograd.grad(total, tensors, materialize_grads=True)]


def squares(name, p):
    return lambda x, v, eps: (OPERATORS[name](x, v, eps, p=p) ** 2).sum()


close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-11)


# JAX


@pytest.fixture
def double():
    with backends.make("jax-float64") as backend:
        yield backend


@pytest.mark.parametrize(("name", "p"), backends.by_day(OTHERS, TABLE))
def test_jax_jit_gives_the_same(double, name, p):
    import jax

    values = [double.tensor(t) for t in inputs()]
    jitted = jax.jit(functools.partial(OPERATORS[name], p=p))
    close(jitted(*values), outside(name, p, *inputs()))
    # the same program for other values
    other = [double.tensor(t) for t in inputs(seed=8)]
    close(jitted(*other), outside(name, p, *inputs(seed=8)))


@pytest.mark.parametrize(("name", "p"), backends.by_day(ONCE, TABLE))
def test_jax_vmap_is_a_loop(double, name, p):
    import jax

    groups = [inputs(seed=s) for s in range(3)]
    stacked = [double.tensor(np.stack(part)) for part in zip(*groups, strict=True)]
    # outside of jit each operation is compiled for itself
    mapped = jax.jit(jax.vmap(functools.partial(OPERATORS[name], p=p)))(*stacked)
    for result, group in zip(mapped, groups, strict=True):
        close(result, outside(name, p, *group))


@pytest.mark.parametrize("p", backends.by_day([1.5], ORDERS))
def test_jax_vmap_over_eps_alone(double, p):
    import jax

    x, delta, _ = inputs()
    several = np.array([0.0, 0.2, 0.9])
    mapped = jax.vmap(lambda eps: fc.perturb(double.tensor(x), double.tensor(delta), eps, p=p))(
        double.tensor(several)
    )
    for result, eps in zip(mapped, several, strict=True):
        close(result, fc.perturb(x, delta, eps, p=p))


@each_once
def test_jax_grad_under_jit_and_vmap(double, name, p):
    import jax

    groups = [inputs(seed=s) for s in range(2)]
    stacked = [double.tensor(np.stack(part)) for part in zip(*groups, strict=True)]
    slopes = jax.grad(squares(name, p), argnums=(0, 1, 2))
    expected = [gradients(p, *group, name=name) for group in groups]
    for at, result in enumerate(jax.jit(jax.vmap(slopes))(*stacked)):
        close(result, np.stack([truth[at] for truth in expected]))


def test_jax_float32_is_enough_under_jit():
    import jax

    with backends.make("jax-float32") as backend:
        x, delta, eps = (backend.rounded(t) for t in inputs())
        jitted = jax.jit(fc.clipping_aware_rescaling)
        eta = backend.numpy(jitted(backend.tensor(x), backend.tensor(delta), backend.tensor(eps)))
    size = reference.measured_norm(eta, x, delta, 2)
    np.testing.assert_allclose(size, backend.rounded(eps), rtol=1e-6)


def test_jax_scan_carries_the_operator(double):
    import jax

    x, delta, _ = inputs()

    def walk(point, direction):
        return fc.perturb(point, direction, 0.1), None

    steps = np.stack([delta, -delta, delta])
    end, _ = jax.lax.scan(walk, double.tensor(x), double.tensor(steps))
    for direction in steps:
        x = fc.perturb(x, direction, 0.1)
    close(end, x)


def test_jax_bounds_may_be_traced(double):
    import jax

    x, delta, eps = inputs()
    upper = np.linspace(1.0, 1.2, 3).reshape(1, 3, 1)
    jitted = jax.jit(lambda x, v, e, u: fc.perturb(x, v, e, bounds=(0.0, u)))
    result = jitted(*(double.tensor(t) for t in (x, delta, eps, upper)))
    close(result, fc.perturb(x, delta, eps, bounds=(0.0, upper)))


# PyTorch


# torch/_decomp/decompositions_for_jvp.py, which torch.func.jacfwd imports, calls it
forward_mode = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")


def torch_inputs(seed=3, **kwargs):
    import torch

    return [torch.tensor(t, **kwargs) for t in inputs(seed)]


@pytest.fixture
def compiled():
    """A compiler without code generation: what graphs it accepts, and what they compute."""
    import torch

    torch._dynamo.reset()
    yield functools.partial(torch.compile, fullgraph=True, backend="aot_eager")
    torch._dynamo.reset()


@each_once
def test_torch_compile_gives_the_same_without_a_graph_break(compiled, name, p):
    import torch

    operator = compiled(squares(name, p))
    tensors = torch_inputs(requires_grad=True)
    total = operator(*tensors)
    close(total.item(), (outside(name, p, *inputs()) ** 2).sum())
    grads = torch.autograd.grad(total, tensors, materialize_grads=True)
    for grad, truth in zip(grads, gradients(p, *inputs(), name=name), strict=True):
        close(grad.detach(), truth)


def test_torch_compile_without_gradient(compiled):
    operator = compiled(lambda x, v, eps: fc.perturb(x, v, eps) * 2)
    close(operator(*torch_inputs()), 2 * fc.perturb(*inputs()))


def test_torch_compile_leaves_the_root_to_the_engine_of_the_tensors(compiled, monkeypatch):
    from foolbox_carescale.engines.numba_cpu import arrays as cpu

    solved = []
    original = cpu.solve
    monkeypatch.setattr(
        cpu, "solve", lambda *a, **k: (solved.append(a[0].shape), original(*a, **k))[1]
    )
    operator = compiled(lambda x, v, eps: fc.perturb(x, v, eps))
    for _ in range(3):
        operator(*torch_inputs())
    assert len(solved) == 3


@pytest.mark.skipif(shutil.which("c++") is None, reason="code is generated for a C++ compiler")
def test_torch_compile_generates_code_that_gives_the_same():
    import torch

    operator = torch.compile(lambda x, v, eps: fc.perturb(x, v, eps) * 2, fullgraph=True)
    close(operator(*torch_inputs()), 2 * fc.perturb(*inputs()))


def test_torch_compile_takes_tensor_bounds(compiled):
    import torch

    upper = np.linspace(1.0, 1.2, 3).reshape(1, 3, 1)
    operator = compiled(lambda x, v, eps, u: fc.perturb(x, v, eps, bounds=(0.0, u)))
    expected = fc.perturb(*inputs(), bounds=(0.0, upper))
    close(operator(*torch_inputs(), torch.tensor(upper)), expected)


@each_operator
def test_torch_vmap_is_a_loop(name, p):
    import torch

    groups = [inputs(seed=s) for s in range(3)]
    stacked = [torch.tensor(np.stack(part)) for part in zip(*groups, strict=True)]
    mapped = torch.func.vmap(functools.partial(OPERATORS[name], p=p))(*stacked)
    for result, group in zip(mapped, groups, strict=True):
        close(result, outside(name, p, *group))


@pytest.mark.parametrize("p", ORDERS)
def test_torch_vmap_moves_what_is_small_beside_what_has_no_room(p):
    import torch

    x = np.array([[[1.0, 1.0 - 2.0**-10, 0.5]]] * 2, np.float32)
    delta = np.array([[[1e25, 1e10, 1e-14]], [[1e25, 1e10, 1e-20]]], np.float32)
    eta = torch.func.vmap(lambda x, v: fc.clipping_aware_rescaling(x, v, 0.25, p=p))(
        torch.tensor(x), torch.tensor(delta)
    )
    size = reference.measured_norm(eta.numpy(), x[:, 0], delta[:, 0], p)
    np.testing.assert_allclose(size, 0.25, rtol=1e-6 * (5 if p < 1 else 1))


@each_operator
def test_torch_func_grad_alone_and_under_vmap(name, p):
    import torch

    groups = [inputs(seed=s) for s in range(2)]
    stacked = [torch.tensor(np.stack(part)) for part in zip(*groups, strict=True)]
    slopes = torch.func.grad(squares(name, p), argnums=(0, 1, 2))
    expected = [gradients(p, *group, name=name) for group in groups]
    for result, truth in zip(slopes(*(s[0] for s in stacked)), expected[0], strict=True):
        close(result, truth)
    for at, result in enumerate(torch.func.vmap(slopes)(*stacked)):
        close(result, np.stack([truth[at] for truth in expected]))


@forward_mode
@pytest.mark.parametrize("p", ORDERS)
def test_torch_func_jacobians_agree_with_autograd(p):
    import torch

    x, delta, eps = torch_inputs()

    def eta(v):
        return fc.clipping_aware_rescaling(x, v, eps, p=p)

    expected = torch.autograd.functional.jacobian(eta, delta)
    close(torch.func.jacrev(eta)(delta), expected)
    close(torch.func.jacfwd(eta)(delta), expected)


@forward_mode
@pytest.mark.parametrize("p", ORDERS)
def test_torch_func_hessian_agrees_with_autograd(p):
    import torch

    x, delta, eps = torch_inputs()

    def total(v):
        return fc.clipping_aware_rescaling(x, v, eps, p=p).sum()

    expected = torch.autograd.functional.hessian(total, delta)
    close(torch.func.hessian(total)(delta), expected)


# TensorFlow


@pytest.mark.parametrize(
    ("name", "p", "batch"),
    # the size of the batch is unknown, and once per operator it is known
    backends.by_day(
        [*((n, p, None) for n, p in OTHERS), ("perturb", 2.0, 4)],
        [*((n, p, None) for n, p in TABLE), *((n, 2.0, 4) for n in OPERATORS)],
    ),
)
def test_tf_function_gives_the_same(name, p, batch):
    import tensorflow as tf

    signature = [
        tf.TensorSpec((batch, 3, 5), tf.float64),
        tf.TensorSpec((batch, 3, 5), tf.float64),
        tf.TensorSpec((batch,), tf.float64),
    ]
    graph = tf.function(functools.partial(OPERATORS[name], p=p), input_signature=signature)
    close(graph(*inputs()), outside(name, p, *inputs()))
    if batch is None:
        more = inputs(seed=8, shape=(7, 3, 5))
        close(graph(*more), outside(name, p, *more))


@pytest.mark.parametrize(("name", "p"), backends.by_day(ONCE, CONVEX))
def test_tape_inside_of_a_graph(name, p):
    import tensorflow as tf

    spec = tf.TensorSpec((None, 3, 5), tf.float64)

    @tf.function(input_signature=[spec, spec, tf.TensorSpec((None,), tf.float64)])
    def slopes(x, v, eps):
        with tf.GradientTape() as tape:
            tape.watch([x, v, eps])
            total = tf.reduce_sum(OPERATORS[name](x, v, eps, p=p) ** 2)
        return tape.gradient(total, [x, v, eps], unconnected_gradients="zero")

    for result, truth in zip(slopes(*inputs()), gradients(p, *inputs(), name=name), strict=True):
        close(result, truth)


def test_tape_around_a_graph():
    import tensorflow as tf

    x, delta, eps = (tf.constant(t) for t in inputs())
    with tf.GradientTape() as tape:
        tape.watch(delta)
        total = tf.reduce_sum(tf.function(fc.perturb)(x, delta, eps) ** 2)
    close(tape.gradient(total, delta), gradients(2.0, *inputs())[1])


def test_graph_takes_tensor_bounds_and_a_scalar_eps():
    import tensorflow as tf

    x, delta, _ = inputs()
    upper = np.linspace(1.0, 1.2, 3).reshape(1, 3, 1)
    graph = tf.function(lambda x, v, e, u: fc.perturb(x, v, e, bounds=(0.0, u)))
    result = graph(*(tf.constant(t) for t in (x, delta, np.float64(0.4), upper)))
    close(result, fc.perturb(x, delta, 0.4, bounds=(0.0, upper)))


def test_other_unknown_dimensions_are_refused_with_the_remedy():
    import tensorflow as tf

    for shape, got in (((None, None, 5), r"shape \(None, None, 5\)"), (None, "unknown number of")):
        spec = tf.TensorSpec(shape, tf.float64)
        graph = tf.function(lambda x, v: fc.perturb(x, v, 0.5), input_signature=[spec, spec])
        message = f"x: only the batch size may be unknown in a graph, got .*{got}.*ensure_shape"
        with pytest.raises(ValueError, match=message):
            graph(*inputs()[:2])


# Forward mode: a direction's derivative is the product of the Jacobian with it


@each_convex
def test_torch_forward_mode_agrees_with_reverse_mode(name, p):
    import torch
    from torch.autograd import forward_ad
    from torch.autograd.functional import jacobian

    x, delta, eps = (torch.tensor(t) for t in inputs())
    tangents = [torch.tensor(t) for t in inputs(seed=4)]
    arguments = (x, delta, eps)

    def call(*arguments):
        return OPERATORS[name](*arguments, p=p)

    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(t, d) for t, d in zip(arguments, tangents, strict=True)]
        found = forward_ad.unpack_dual(call(*duals)).tangent
    whole = jacobian(call, arguments)
    wanted = sum(torch.tensordot(j, d, d.ndim) for j, d in zip(whole, tangents, strict=True))
    close(found, wanted)
    by_columns = jacobian(call, arguments, strategy="forward-mode", vectorize=True)
    for a, b in zip(by_columns, whole, strict=True):
        close(a, b)


@each_once
def test_tensorflow_forward_mode_agrees_with_reverse_mode(name, p):
    import tensorflow as tf

    arguments = [tf.constant(t) for t in inputs()]
    tangents = [tf.constant(t) for t in inputs(seed=4)]
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        value = OPERATORS[name](*arguments, p=p)
    with tf.autodiff.ForwardAccumulator(arguments, tangents) as forward:
        found = forward.jvp(OPERATORS[name](*arguments, p=p), tf.UnconnectedGradients.ZERO)
    whole = tape.jacobian(value, arguments, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    wanted = sum(tf.tensordot(j, d, d.ndim) for j, d in zip(whole, tangents, strict=True))
    close(found, wanted)
