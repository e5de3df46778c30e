"""The Triton engine: on a GPU where there is one, else under Triton's interpreter."""

import math
import types

import numpy as np
import pytest
import torch

from tests import reference
from tests.engines import hard
from tests.engines.triton_interpreter import INTERPRETED, nightly, speed_up

pytest.importorskip("triton", reason="Triton is not installed")
HAS_GPU = torch.cuda.is_available()
if INTERPRETED:
    speed_up()
    # NumPy, by which it computes, warns of numbers that a mask discards
    pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.fixture(scope="module")
def cuda():
    """The engine; what Triton decides by the environment when it is first imported."""
    from foolbox_carescale.engines.triton_cuda import launch as cuda

    return cuda


@pytest.fixture
def device():
    if INTERPRETED:
        return "cpu"
    if not HAS_GPU:
        pytest.skip("no GPU here; the interpreter runs this test in a subprocess")
    return "cuda"


@pytest.fixture
def gpu():
    if INTERPRETED or not HAS_GPU:
        pytest.skip("needs a GPU: speed and waiting mean nothing under the interpreter")
    return "cuda"


@pytest.fixture
def split(cuda, monkeypatch):
    """Three programs for each row, blocks of 128."""
    monkeypatch.setattr(cuda, "BLOCK", 128)
    monkeypatch.setattr(cuda, "parts_of", lambda *_: 3)


def arguments(problem, device):
    x, delta, eps = (
        torch.tensor(a, device=device) for a in (problem.x, problem.delta, problem.eps)
    )
    bounds = (
        b if isinstance(b, float) else torch.tensor(b, device=device)
        for b in (problem.lower, problem.upper)
    )
    return x, delta, eps[:, 0], problem.p, *bounds


def check(cuda, problem, device):
    eta, flags = cuda.solve(*arguments(problem, device), tolerance=1e-6)
    assert flags.item() == 0
    problem.check(eta.cpu().numpy())


@pytest.fixture
def launches(cuda, monkeypatch):
    """The names of the kernels that were started."""
    names = []
    launch = cuda.Launch.__call__

    def counted(self, *args):
        names.append(self.kernel.__name__)
        launch(self, *args)

    monkeypatch.setattr(cuda.Launch, "__call__", counted)
    return names


@pytest.mark.parametrize("p", [nightly(0.5), nightly(1.3), 2.0, math.inf])
def test_norm_is_exact_on_hard_rows(cuda, device, p):
    cases = ("geometric",) if INTERPRETED else reference.CASES
    check(cuda, hard.Problem(p, "float32", 300, cases=cases), device)


@pytest.mark.parametrize("p", [1.3])
def test_norm_is_exact_on_hard_rows_in_double_precision(cuda, device, p):
    cases = ("log-uniform",) if INTERPRETED else reference.CASES
    check(cuda, hard.Problem(p, "float64", 300, cases=cases), device)


@pytest.mark.parametrize("dtype", ["float32", nightly("float64")])
@pytest.mark.parametrize("p", [0.5, 1.3, 2.0, math.inf])
def test_norm_is_exact_on_rows_of_a_few_elements(cuda, device, p, dtype):
    check(cuda, hard.Problem(p, dtype, 20), device)


@pytest.mark.parametrize(
    ("length", "p"),
    [(1, 2.0), nightly(500, 1.0), nightly(500, 2.5), (500, 10.0), nightly(500, math.inf)],
)
def test_norm_is_exact_on_rows_of_one_element_or_several_blocks(
    cuda, device, monkeypatch, length, p
):
    monkeypatch.setattr(cuda, "BLOCK", 256)
    check(cuda, hard.Problem(p, "float32", length, cases=("cauchy",)), device)


def test_a_sample_that_misleads_costs_passes_but_no_digits(cuda, device, monkeypatch):
    monkeypatch.setattr(cuda, "SHORTEST_SAMPLED", 300)
    check(cuda, hard.Problem(2.0, "float32", 300, cases=("log-uniform",)), device)


@pytest.mark.parametrize("p", [nightly(1.3), 2.0, math.inf])
def test_norm_is_exact_on_split_rows(cuda, device, split, p):
    cases = ("on the bounds", "geometric", "all zero")
    if INTERPRETED and p != math.inf:  # where a pass takes long
        cases = ("geometric", "all zero") if p == 1.3 else ("on the bounds",)
    check(cuda, hard.Problem(p, "float32", 401, cases=cases), device)


@pytest.mark.parametrize("rows", [nightly(1), 6])
def test_bounds_may_differ_by_element(cuda, device, split, rows):
    rng = np.random.default_rng(1)
    lower = rng.uniform(-1, 0, size=(rows, 300)).astype(np.float32)
    upper = lower + rng.uniform(0.1, 1, size=lower.shape).astype(np.float32)
    problem = hard.Problem(2.0, "float32", 300, lower=lower, upper=upper, cases=("uniform",))
    check(cuda, problem, device)


@pytest.mark.parametrize(
    ("in_parts", "p", "started"),
    [
        (False, 2.0, ["row_kernel"]),
        (True, 2.0, ["pass_kernel"] * 3 + ["row_kernel"]),
        (True, math.inf, ["pass_kernel", "row_kernel"]),
    ],
)
def test_perturb_moves_every_row_by_eps_in_few_launches(
    cuda, device, request, launches, in_parts, p, started
):
    if in_parts:
        request.getfixturevalue("split")
    x, delta = (
        torch.tensor(a, device=device).float() for a in reference.case("uniform", shape=(3, 500))
    )
    eps = torch.tensor([0.0, 0.2, 0.9], device=device)
    moved, eta, flags = cuda.perturb(x, delta, eps, p, 0.0, 1.0, 0.0)
    assert launches == started
    torch.testing.assert_close((moved - x).norm(p, dim=1), eps, rtol=2e-6, atol=0)
    torch.testing.assert_close(moved, (x + eta * delta).clamp(0, 1))
    assert flags.item() == 0
    in_place, _, _ = cuda.perturb(x, delta, eps, p, 0.0, 1.0, 0.0, out=x)
    assert in_place is x
    torch.testing.assert_close(x, moved, rtol=0, atol=0)


def test_a_row_that_needs_more_passes_is_finished_and_written_by_one_program(
    cuda, device, split, monkeypatch
):
    monkeypatch.setattr(cuda, "LAUNCHED_PASSES", 1)
    x, delta = (
        torch.tensor(a, device=device).float() for a in reference.case("cauchy", shape=(2, 401))
    )
    eps = 0.7 * torch.tensor([5.0, 2.0], device=device)
    moved, _, _ = cuda.perturb(x, delta, eps, 2.0, 0.0, 1.0, 0.0)
    torch.testing.assert_close((moved - x).norm(dim=1), eps, rtol=2e-6, atol=0)
    cuda.perturb(x, delta, eps, 2.0, 0.0, 1.0, 0.0, out=x)
    torch.testing.assert_close(x, moved, rtol=0, atol=0)


@pytest.mark.parametrize("length", [20, 300])
def test_the_far_corner_is_reached_to_the_last_digit(cuda, device, length):
    x, delta = (
        torch.tensor(a, device=device).float() for a in reference.case("cauchy", shape=(4, length))
    )
    moved, _, _ = cuda.perturb(x, delta, 100.0, 2.0, 0.0, 1.0, 0.0)
    torch.testing.assert_close(moved, (delta > 0).float(), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_computes_in_single(cuda, device, dtype):
    x, delta = (
        torch.tensor(a, device=device).to(dtype) for a in reference.case("uniform", shape=(2, 100))
    )
    eta, _ = cuda.solve(x, delta, 0.7, 2.0, 0.0, 1.0, 0.0)
    assert eta.dtype == torch.float32
    size = reference.measured_norm(eta[:, 0].cpu(), x.double().cpu(), delta.double().cpu(), 2.0)
    np.testing.assert_allclose(size, 0.7, rtol=1e-6)
    moved, _, _ = cuda.perturb(x, delta, 0.7, 2.0, 0.0, 1.0, 0.0)
    expected = (x.float() + eta * delta.float()).clamp(0, 1).to(dtype)
    # the interpreter cuts digits off where a GPU rounds
    rtol = 2**-7 if INTERPRETED and dtype == torch.bfloat16 else 0
    torch.testing.assert_close(moved, expected, rtol=rtol, atol=0)
    tiny = torch.full_like(delta, 1e-7)
    eta, _ = cuda.solve(x, tiny, 1e4, 2.0, 0.0, 1.0, 0.0)
    assert torch.all(eta <= torch.finfo(dtype).max)


@pytest.mark.parametrize("in_parts", [False, True])
def test_flags_say_what_is_wrong_and_such_rows_stay(cuda, device, request, in_parts):
    if in_parts:
        request.getfixturevalue("split")
    x, delta = (torch.tensor(a).float() for a in reference.case("uniform", shape=(6, 400)))
    x[1, 399] = math.nan
    delta[2, 7] = math.inf
    delta[3, 8] = math.nan
    x[4, 300] = 1.01
    x[0, 5] = 1.0001  # within the tolerance
    x, delta = x.to(device), delta.to(device)
    for rows, expected in ((slice(0, 1), 0), (slice(1, 4), 1), (slice(4, 5), 2), (slice(0, 6), 3)):
        found = x[rows].clone()
        _, eta, flags = cuda.perturb(found, delta[rows], 0.5, 2.0, 0.0, 1.0, 0.001, out=found)
        assert flags.tolist() == [expected]
        bad = torch.tensor([False, True, True, True, True, False], device=device)[rows]
        assert torch.equal(eta[:, 0] == 0, bad)
        torch.testing.assert_close(found[bad], x[rows][bad], rtol=0, atol=0, equal_nan=True)
    bad_eps = torch.tensor([-1.0], device=device)
    eta, flags = cuda.solve(x[5:], delta[5:], bad_eps, 2.0, 0.0, 1.0, 0.001)
    assert (eta.item(), flags.item()) == (0, 4)
    eta, flags = cuda.solve(x, delta, 0.5, 2.0, 0.0, 1.0, 0.001, report=False)
    assert flags is None
    assert not eta[1:5].any()


def test_flags_of_short_rows_are_told_together_and_such_rows_stay(cuda, device):
    x, delta = (torch.tensor(a).float() for a in reference.case("uniform", shape=(4, 10)))
    x[1, 2], delta[2, 3] = 1.5, math.nan
    x, delta = x.to(device), delta.to(device)
    moved, eta, flags = cuda.perturb(x, delta, 0.5, 2.0, 0.0, 1.0, 0.001)
    assert flags.item() == 3
    assert (eta[:, 0] == 0).tolist() == [False, True, True, False]
    torch.testing.assert_close(moved[1:3], x[1:3], rtol=0, atol=0)


@pytest.mark.parametrize("p", [0.5, 10.0])
def test_extreme_eps_gives_a_finite_eta(cuda, device, p):
    x, delta = (torch.tensor(a).float() for a in reference.case("cauchy", shape=(4, 50)))
    eps = torch.tensor([1e-42, 1e-30, 1e30, 3e38])
    eta, _ = cuda.solve(x.to(device), delta.to(device), eps.to(device), p, 0.0, 1.0, 0.0)
    assert torch.all(torch.isfinite(eta))
    wanted = np.where(eps < 1e-38, 0.0, eps.double())
    wanted = np.minimum(wanted, reference.reachable_norm(x, delta, p))
    size = reference.measured_norm(eta[:, 0].cpu(), x, delta, p)
    np.testing.assert_allclose(size, wanted, rtol=5e-6)


def test_rows_need_not_be_contiguous(cuda, device):
    x, delta = (torch.tensor(a, device=device) for a in reference.case("uniform", shape=(4, 90)))
    eps = torch.tensor([0.5], device=device)
    expected, _ = cuda.solve(x[::2, :60].contiguous(), delta[::2, :60], eps, 2.0, 0.0, 1.0, 0.0)
    for strided in (x[::2, :60], x[::2, :60].T.contiguous().T):
        eta, _ = cuda.solve(strided, delta[::2, :60], eps, 2.0, 0.0, 1.0, 0.0)
        torch.testing.assert_close(eta, expected, rtol=0, atol=0)
    apart = torch.stack([x[:1], delta[:1]], dim=-1)  # the elements of one row, two by two
    expected, _ = cuda.solve(x[:1], delta[:1], eps, 2.0, 0.0, 1.0, 0.0)
    eta, _ = cuda.solve(apart[..., 0], apart[..., 1], eps, 2.0, 0.0, 1.0, 0.0)
    torch.testing.assert_close(eta, expected, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(0, 4), (3, 0)])
def test_where_there_is_nothing_eta_is_none_or_zero(cuda, device, shape):
    empty = torch.zeros(shape, device=device)
    eta, flags = cuda.solve(empty, empty, torch.ones(1, device=device), 2.0, 0.0, 1.0, 0.0)
    assert eta.shape == (shape[0], 1)
    assert not eta.any()
    assert flags.item() == 0


@pytest.mark.parametrize(
    ("rows", "n", "parts"),
    [
        (1, 1_000_000, 122),  # as many as have two blocks
        (1, 16_384, 2),
        (1, 16_383, 1),
        (100, 150_528, 3),  # as many as the multiprocessors have room for
        (150, 150_528, 2),
        (151, 150_528, 1),
        (1000, 150_528, 1),
        (1, 10, 1),
    ],
)
def test_rows_are_split_where_they_are_few_and_long(cuda, monkeypatch, rows, n, parts):
    gpu = types.SimpleNamespace(multi_processor_count=100)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    assert cuda.parts_of(rows, n, torch.device("cuda")) == parts
    assert cuda.parts_of(rows, n, torch.device("cpu")) == 1


@pytest.mark.parametrize("shape", [(1, 12_000_000), (32, 150_528), (512, 3072), (100_000, 10)])
def test_norm_is_exact_at_the_shapes_of_the_benchmark(cuda, gpu, shape):
    generator = torch.Generator(gpu).manual_seed(0)
    x = torch.rand(shape, generator=generator, device=gpu)
    delta = torch.randn(shape, generator=generator, device=gpu)
    wanted = 0.05 * shape[1] ** 0.5
    eta, flags = cuda.solve(x, delta, torch.full((1,), wanted, device=gpu), 2.0, 0.0, 1.0, 0.0)
    room = torch.where(delta > 0, 1 - x.double(), x.double())
    size = torch.minimum(eta.double() * delta.abs(), room).norm(dim=1)
    torch.testing.assert_close(size, torch.full_like(size, wanted), rtol=1e-6, atol=0)
    assert flags.item() == 0


@pytest.mark.parametrize("shape", [(8, 150_528), (512, 3072)])
def test_the_host_never_waits_for_the_device(cuda, gpu, shape):
    x, delta = torch.rand(shape, device=gpu), torch.randn(shape, device=gpu)
    eps = torch.full((1,), 3.0, device=gpu)
    cuda.perturb(x, delta, eps, 2.0, 0.0, 1.0, 0.0)  # compiles
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        cuda.perturb(x, delta, eps, 2.0, 0.0, 1.0, 0.0)
    finally:
        torch.cuda.set_sync_debug_mode(before)


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("pass_kernel", {"COUNT": 0}),
        ("pass_kernel", {"COUNT": 1, "EPS": True, "LOWER": True}),
        ("row_kernel", {"PASSED": 3}),
        ("row_kernel", {"SAMPLED": True, "UPPER": True}),
        ("row_kernel", {"ROWS": 128, "BLOCK": 1}),
    ],
)
def test_kernels_compile_for_a_gpu_where_none_is(cuda, monkeypatch, tmp_path, name, choices):
    if INTERPRETED:
        pytest.skip("the interpreter does not compile")
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    constants = {
        "PASSED": 0, "WRITE": True, "SAMPLED": False, "LOWER": False,
        "UPPER": False, "EPS": False, "P": 1.3, "HIGH": 1.25, "RTOL": 2e-7,
        "LARGEST": 1e38, "TYPE": tl.float32, "ROWS": 1, "BLOCK": 1024, "PARTS": 4, **choices,
    }  # fmt: skip
    kernel = getattr(cuda.kernels, name)
    kinds = {
        **dict.fromkeys(("x", "v", "lower", "upper", "out", "eps", "eta"), "*fp32"),
        **dict.fromkeys(cuda.kernels.BITS, "i64"),
        **dict.fromkeys(constants, "constexpr"),
        "space": "*fp64",
        "word": "*i32",
    }
    values = {
        (place,): constants[argument]
        for place, argument in enumerate(kernel.arg_names)
        if argument in constants
    }
    compiled = triton.compile(
        ASTSource(kernel, {a: kinds.get(a, "i32") for a in kernel.arg_names}, constexprs=values),
        target=GPUTarget("cuda", 75, 32),
        options={"num_warps": 8, "maxnreg": cuda.REGISTERS, "enable_fp_fusion": True},
    )
    assert "cubin" in compiled.asm


class Kernel:
    """Stands for what ``triton.jit`` returns, and for what that compiles."""

    arg_names = ("x", "n", "number", "P")

    def __init__(self):
        self.calls = []
        self.broken = False

    def __getitem__(self, grid):
        def launch(*args, **options):
            if not options and self.broken:
                raise TypeError("function takes exactly 8 arguments")
            self.calls.append((grid, args, options))
            return self

        return launch


def test_a_kernel_is_looked_up_by_triton_once_for_each_launch(monkeypatch):
    from foolbox_carescale.engines.triton_cuda import dispatch

    monkeypatch.setattr(dispatch, "INTERPRETED", False)
    kernel, grid, x = Kernel(), (1, 1, 1), torch.zeros(64)
    launch = dispatch.Launch(kernel, grid, 4, {"P": 2.0})

    def by_triton(*args):
        launch(*args)
        return bool(kernel.calls[-1][2])

    assert [by_triton(x, 32, 5), by_triton(x, 32, 6)] == [True, False]
    assert kernel.calls[-1] == (grid, (x, 32, 6, 2.0), {})
    # a Triton whose kernels want to be launched in another way
    kernel.broken = True
    assert by_triton(x, 32, 5)
    assert by_triton(x, 32, 5)


def test_launches_are_made_anew_for_what_triton_compiles_differently(monkeypatch):
    from foolbox_carescale.engines.triton_cuda import dispatch, launch

    monkeypatch.setattr(dispatch, "INTERPRETED", False)
    launches = dispatch.remembered(launch._launches)
    x, v = torch.zeros(2, 64), torch.zeros(2, 64)

    def made(x, delta, n=32, steps=(64, 64, 0, 0, 0)):
        kinds = dispatch.alignments((x, delta, x, x, x, x))
        return launches(2, n, x.device, 2.0, kinds, steps, False)

    usual = made(x, v)
    assert made(x.clone(), v) is usual
    others = [
        made(x, v, n=33), made(x, v, steps=(65, 64, 0, 0, 0)), made(x.half(), v),
        made(x[:, 1:], v), made(x, v[:, 1:]),
    ]  # fmt: skip
    assert len({id(launch) for launch in (usual, *others)}) == 1 + len(others)
    small, large, other = (dispatch.alignments((x, *dispatch.bits_of(a))) for a in (0.0, 0.5, 0.7))
    assert small != large
    assert large == other
    # what is written is at another place than the directions
    apart = v[:, 1:]
    assert dispatch.alignments((x, x, apart)) != dispatch.alignments((x, apart, x))


@pytest.mark.parametrize("shape", [(2, 3), (1, 1)])
def test_kernels_read_the_sign_that_pytorch_keeps_beside_the_memory(shape):
    from foolbox_carescale.engines.triton_cuda.dispatch import rows_of

    values = torch.arange(1.0, 1.0 + math.prod(shape)).reshape(shape)
    for negated in (torch._neg_view(values), torch.complex(values, values).conj().imag):
        rows, stride = rows_of(negated, shape[1])
        assert not rows.is_neg()
        assert torch.equal(rows.as_strided(shape, (stride, 1)), -values)


def test_every_call_has_a_word_of_flags_of_its_own():
    from foolbox_carescale.engines.triton_cuda import dispatch

    words = [dispatch.flag_word(torch.device("cpu")) for _ in range(dispatch.WORDS + 1)]
    assert all(word.shape == (1,) and word.item() == 0 for word in words)
    assert all(word.data_ptr() % 16 == 0 for word in words)
    assert len({word.data_ptr() for word in words}) == len(words)
