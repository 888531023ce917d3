"""Programs compiled for accelerators that are not there: what is read from their text, by hand."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tools import aot, aot_jaxpr, aot_work
from tools import aot_hlo as hlo

ROOT = Path(__file__).resolve().parents[2]

# A device of round numbers: a cycle is 1 us, a byte 1 us, a product's operation 1 us at the half
# of its peak, an elementwise one too.
SPEEDS = hlo.Speeds(clock=1e6, bytes=1e6, matrix=2e6, elements=2e6)


def summary(text: str, **more):
    return hlo.summary(hlo.parse(text), SPEEDS, above=1e-4, **more)


def entry(*lines: str, before: str = "") -> str:
    body = "\n".join(f"  {line}" for line in lines)
    return f"HloModule m\n{before}\nENTRY %main (p: f32[4]) -> f32[4] {{\n{body}\n}}\n"


def cycles(n: int) -> str:
    return f'backend_config={{"window_config":{{"estimated_cycles":"{n}"}}}}'


# Shapes and text


def test_sizes_of_types():
    found = hlo.shapes_of("(f32[2,3]{1,0:T(8,128)S(1)}, bf16[5]{0}, pred[], u32[]{:S(2)}, s4[3])")
    assert [s.bytes for s in found] == [24, 10, 1, 4, 2]
    assert [s.space for s in found] == [1, 0, 0, 2, 0]


def test_an_estimate_is_cycles_over_the_clock_and_the_largest_number_is_none():
    text = entry(
        "%p = f32[4]{0} parameter(0)",
        f"%a = f32[4]{{0}} negate(%p), {cycles(700)}",
        f"ROOT %b = f32[4]{{0}} negate(%a), {cycles(2**63 - 1)}",
    )
    found = summary(text)
    assert found["estimate_ms"] == pytest.approx(0.7)
    assert found["surcharge_ms"] == pytest.approx(0.032)  # 16 bytes read and 16 written


# Loops


LOOPS = """
%inner_body (s: (s32[], f32[4])) -> (s32[], f32[4]) {
  %s = (s32[], f32[4]{0}) parameter(0)
  %x = f32[4]{0} get-tuple-element(%s), index=1
  %n = f32[4]{0} negate(%x), CYCLES10
  ROOT %t = (s32[], f32[4]{0}) tuple(%i, %n)
}
%inner_condition (s: (s32[], f32[4])) -> pred[] {
  %s = (s32[], f32[4]{0}) parameter(0)
  %bound = s32[]{:T(128)} constant(50)
  ROOT %lt = pred[] compare(%i, %bound), direction=LT
}
%outer_body (s: (s32[], f32[4])) -> (s32[], f32[4]) {
  %s = (s32[], f32[4]{0}) parameter(0)
  %m = f32[4]{0} negate(%x), CYCLES3
  ROOT %w = (s32[], f32[4]{0}) while(%s), condition=%inner_condition, body=%inner_body
}
%outer_condition (s: (s32[], f32[4], s32[])) -> pred[] {
  %s = (s32[], f32[4]{0}, s32[]) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %n = s32[] get-tuple-element(%s), index=2
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}
%branch (x: f32[4]) -> f32[4] {
  %x = f32[4]{0} parameter(0)
  ROOT %y = f32[4]{0} negate(%x), CYCLES1000
}
""".replace("CYCLES1000", cycles(1000)).replace("CYCLES10", cycles(10))
LOOPS = LOOPS.replace("CYCLES3", cycles(3))


def test_bodies_count_as_often_as_nested_loops_run():
    text = entry(
        "%p = f32[4]{0} parameter(0)",
        "%zero = s32[] constant(0)",
        "%eight = s32[] constant(8)",
        "%start = (s32[], f32[4]{0}, s32[]) tuple(%zero, %p, %eight)",
        "%w = (s32[], f32[4]{0}, s32[]) while(%start), condition=%outer_condition, "
        "body=%outer_body",
        "%c = f32[4]{0} conditional(%k, %p, %p), branch_computations={%branch, %branch}",
        "%d = f32[4]{0} call(%p), to_apply=%branch",
        before=LOOPS,
    )
    found = summary(text)
    # 8 x (3 + 50 x 10), both branches and the call
    assert found["estimate_ms"] == pytest.approx((8 * (3 + 500) + 3000) / 1e3)
    assert found["loops"] == {"8 times": 1, "50 times": 1}
    assert found["launches"] == 8 * 51 + 3


def test_a_gpu_program_says_its_trips_and_has_no_times():
    loop = "%w = f32[4]{0} while(%p), condition=%branch, body=%branch"
    known = 'backend_config={"known_trip_count":{"n":"7"}}'
    text = entry("%p = f32[4]{0} parameter(0)", f"{loop}, {known}", before=LOOPS)
    found = hlo.summary(hlo.parse(text), None)
    assert found["launches"] == 7 and "sum_ms" not in found and "estimate_ms" not in found


# The surcharge


def surcharge(*lines: str, before: str = "", kernels=hlo.no_kernels) -> float:
    """In us."""
    text = entry(*lines, before=before)
    return hlo.summary(hlo.parse(text), SPEEDS, kernels)["surcharge_ms"] * 1e3


def test_a_gather_counts_its_rows_and_not_the_table():
    table = "%t = f32[1000,8]{1,0} parameter(0)", "%i = s32[5,1]{1,0} parameter(1)"
    gather = "gather(%t, %i), offset_dims={1}, slice_sizes={1,8}"
    rows = 5 * 8 * 4
    assert surcharge(*table, f"%g = f32[5,8]{{1,0}} {gather}") == pytest.approx(2 * rows + 20)
    fused = f"""
%inside (t: f32[1000,8], i: s32[5,1]) -> f32[5,8] {{
  %t = f32[1000,8]{{1,0}} parameter(0)
  %b = f32[1000,8]{{1,0}} bitcast(%t)
  %i = s32[5,1]{{1,0}} parameter(1)
  ROOT %g = f32[5,8]{{1,0}} {gather.replace("%t", "%b")}
}}"""
    call = "%f = f32[5,8]{1,0} fusion(%t, %i), kind=kCustom, calls=%inside"
    assert surcharge(*table, call, before=fused) == pytest.approx(2 * rows + 20)


def test_a_scatter_counts_updates_three_times_and_not_the_table():
    lines = (
        "%t = f32[1000,8]{1,0} parameter(0)",
        "%i = s32[5,1]{1,0} parameter(1)",
        "%u = f32[5,8]{1,0} parameter(2)",
    )
    scatter = "f32[1000,8]{1,0} scatter(%t, %i, %u), to_apply=%sum"
    assert surcharge(*lines, f"%s = {scatter}") == pytest.approx(3 * 160 + 20)
    fused = "\n".join(["%inside (t: f32[1000,8]) -> f32[1000,8] {", *(f"  {x}" for x in lines)])
    fused += f"\n  ROOT %s = {scatter}\n}}"
    call = "%f = f32[1000,8]{1,0} fusion(%t, %i, %u), kind=kLoop, calls=%inside"
    assert surcharge(*lines, call, before=fused) == pytest.approx(3 * 160 + 20)


def test_random_bits_count_twenty_operations_a_word():
    lines = "%k = u32[4]{0} parameter(0)", "%r = u32[1000]{0} rng-bit-generator(%k)"
    assert surcharge(*lines) == pytest.approx(20 * 1000)  # 4 us for each word, if bytes counted
    halves = "%r = u16[1000]{0} rng-bit-generator(%k)"
    assert surcharge(lines[0], halves) == pytest.approx(20 * 500)


def test_a_sort_counts_as_a_network():
    lines = "%k = s32[1024]{0} parameter(0)", "%v = f32[1024]{0} parameter(1)"
    sort = "%s = (s32[1024]{0}, f32[1024]{0}) sort(%k, %v), dimensions={0}, to_apply=%less"
    assert surcharge(*lines, sort) == pytest.approx(1024 / 4 * 10 * 11 * (1 + 2 * 2))


def test_a_product_without_an_estimate_counts_at_half_of_the_peak():
    lines = "%a = bf16[16,32]{1,0} parameter(0)", "%b = bf16[32,64]{1,0} parameter(1)"
    dot = "%d = f32[16,64]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}"
    assert surcharge(*lines, dot) == pytest.approx(2 * 16 * 32 * 64)
    convolution = "%d = f32[16,64]{1,0} convolution(%a, %b), dim_labels=bf_io->bf"
    assert surcharge(*lines, convolution) == pytest.approx(2 * 16 * 32 * 64)


def test_a_start_and_its_end_count_once_and_copies_beside_are_told():
    found = summary(
        entry(
            "%p = f32[100]{0} parameter(0)",
            "%s = (f32[100]{0:S(1)}, f32[100]{0}, u32[]{:S(2)}) copy-start(%p)",
            "%d = f32[100]{0:S(1)} copy-done(%s)",
            "%g = ((f32[100]{0}), f32[25]{0:S(1)}, s32[]) slice-start(%p), slice={[0:25]}",
            "%h = f32[25]{0:S(1)} slice-done(%g)",
            "%i = s32[] constant(3)",
            "%j = ((f32[100]{0}, s32[]), f32[5]{0:S(1)}, s32[]) dynamic-slice-start(%p, %i)",
            "%k = (f32[100]{0}, f32[100]{0}) dynamic-update-slice-start(%p, %h, %i)",
        )
    )
    # 400 bytes, 100 of the slice, 20 of the next one, 100 that are written back
    assert found["surcharge_ms"] == pytest.approx(0.62)
    assert found["beside_ms"] == found["surcharge_ms"] and not found["copies"]


def test_what_only_names_memory_costs_nothing():
    nothing = '%b = f32[9]{0} custom-call(), custom_call_target="AllocateBuffer"'
    assert surcharge("%p = f32[4]{0} parameter(0)", nothing, "%c = f32[4]{0} bitcast(%p)") == 0


def test_what_waits_for_another_core_is_walked_into():
    text = entry(
        "%p = f32[4]{0} parameter(0)",
        '%s = ((f32[4]{0}), f32[4]{0}, u32[]) call-start(%p), async_execution_thread="sparsecore", '
        "to_apply=%branch",
        "%d = f32[4]{0} call-done(%s)",
        before=LOOPS,
    )
    found = summary(text)
    assert (found["estimate_ms"], found["surcharge_ms"]) == (pytest.approx(1.0), 0)


def test_collectives_are_counted_with_their_bytes():
    text = entry(
        "%p = f32[25]{0} parameter(0)",
        "%s = (f32[25]{0}, f32[100]{0}) all-gather-start(%p), dimensions={0}",
        "%d = f32[100]{0} all-gather-done(%s)",
        "%r = f32[100]{0} all-reduce(%d), to_apply=%sum",
    )
    found = summary(text)
    assert found["collectives"] == {
        "all-gather": {"runs": 1, "mb": pytest.approx(4e-4)},
        "all-reduce": {"runs": 1, "mb": pytest.approx(4e-4)},
    }
    assert found["surcharge_ms"] == pytest.approx((100 + 400 + 400 + 400) / 1e3)


# Copies, parts, precision


def test_copies_are_what_is_only_moved():
    moved = """
%moves (p: f32[10,20]) -> bf16[20,10] {
  %p = f32[10,20]{1,0} parameter(0)
  %c = bf16[10,20]{1,0} convert(%p)
  ROOT %t = bf16[20,10]{1,0} transpose(%c), dimensions={1,0}
}
%adds (p: f32[10,20]) -> f32[10,20] {
  %p = f32[10,20]{1,0} parameter(0)
  ROOT %a = f32[10,20]{1,0} add(%p, %p)
}"""
    text = entry(
        "%p = f32[10,20]{1,0} parameter(0)",
        '%c = f32[10,20]{0,1} copy(%p), metadata={op_name="jit(f)/layer_3/mul"}',
        '%e = f32[10,20]{0,1} copy(%c), metadata={op_name="jit(f)/layer_4/mul"}',
        "%f = bf16[20,10]{1,0} fusion(%p), kind=kLoop, calls=%moves",
        "%g = f32[10,20]{1,0} fusion(%p), kind=kLoop, calls=%adds",
        "%h = f32[10,20]{1,0:S(1)} copy(%p)",
        before=moved,
    )
    found = [(c["kind"], c["type"], c["times"], c["source"]) for c in summary(text)["copies"]]
    assert found == [
        ("copy", "f32[10,20]", 2, "layer_*/mul"),
        ("fusion:transpose", "bf16[20,10]", 1, ""),
    ]


def test_parts_go_by_names_and_by_squares_of_tokens():
    step = "jit(call)/while/body/eval_jaxpr/"
    forward = step + "jvp(DiffTMR.encode)/DiffTMR.encode_text/text_encoder/layer_0/"
    backward = step + "transpose(jvp(DiffTMR.encode))/DiffTMR.encode_text/text_encoder/layer_0/"
    square = [hlo.Shape("f32", (2, 12, 256, 256), 0)]
    assert hlo.part_of(forward + "query/dot_general") == "text fwd"
    assert hlo.part_of(backward + "query/dot_general") == "text bwd"
    assert hlo.part_of(forward + "bqhd,bkhd->bhqk/dot_general") == "attention fwd"
    assert hlo.part_of(backward + "convert_element_type", square) == "attention bwd"
    assert hlo.part_of(forward + "layer_0._drop/rng_bit_generator") == "dropout"
    assert hlo.part_of(step + "jvp(DiffTMR.loss)/DiffTMR._generative/while/dot") == "denoiser"
    assert hlo.part_of(step + "cond/branch_1_fun/mul") == "update"
    assert hlo.part_of(step + "jit(_where)/select_n") == "update"
    kernel = "text_encoder/layers/backward_kernel/pallas_call"
    assert hlo.part_of(backward.split("text_encoder")[0] + kernel) == "attention bwd"
    assert hlo.part_of("") == "no name"


def test_products_that_read_float32_and_what_they_ask_for():
    text = entry(
        "%a = f32[4,4]{1,0} parameter(0)",
        "%b = bf16[4,4]{1,0} parameter(1)",
        f"%c = f32[4,4]{{1,0}} convolution(%a, %b), dim_labels=bf_io->bf, {cycles(100)}",
        "%d = f32[4,4]{1,0} convolution(%a, %a), dim_labels=bf_io->bf, "
        f"operand_precision={{highest,highest}}, {cycles(200)}",
        f"%e = f32[4,4]{{1,0}} convolution(%b, %b), dim_labels=bf_io->bf, {cycles(400)}",
    )
    asked = {"default": 1, "highest": 1}
    assert summary(text)["float32"] == {"products": 2, "asked": asked, "ms": pytest.approx(0.3)}


# What a function calculates


def test_products_in_loops_are_counted_by_trips():
    def step(x, _):
        return jnp.tanh(x @ jnp.ones((8, 8))), None

    jaxpr = jax.jit(lambda x: jax.lax.scan(step, x, None, length=50)[0]).trace(np.ones((4, 8)))
    work = aot_jaxpr.counted(jaxpr.jaxpr)
    assert work.matrix == 50 * 2 * 4 * 8 * 8 and work.elements == 50 * 4 * 8 * 4


def test_a_kernel_is_counted_by_its_text_and_grid():
    from jax.experimental import pallas as pl

    def kernel(x, y, out):
        out[...] = jnp.dot(x[...], y[...]) + x[...]

    def call(x, y):
        whole = pl.BlockSpec((8, 8), lambda i: (0, 0))
        block = pl.BlockSpec((8, 8), lambda i: (i, 0))
        shape = jax.ShapeDtypeStruct((32, 8), jnp.float32)
        made = pl.pallas_call(
            kernel,
            shape,
            grid=(4,),
            in_specs=[block, whole],
            out_specs=block,
            name="mine",
        )
        return made(x, y)

    kernels = aot_jaxpr.kernels_of(jax.jit(call).trace(np.ones((32, 8)), np.ones((8, 8))).jaxpr)
    (found,) = kernels
    assert found.name == "mine" and found.work.matrix == 4 * 2 * 8**3
    assert found.work.elements == 4 * 64
    run = (
        "%x = f32[32,8]{1,0} parameter(0)",
        "%y = f32[8,8]{1,0} parameter(1)",
        '%k = f32[32,8]{1,0} custom-call(%x, %y), custom_call_target="tpu_custom_call", '
        'metadata={op_name="jit(f)/mine/pallas_call"}',
    )
    unknown: set[str] = set()
    looked = aot_jaxpr.lookup(kernels, unknown)
    assert surcharge(*run, kernels=looked) == pytest.approx(4 * 2 * 8**3) and not unknown
    other = [line.replace("mine", "theirs") for line in run]
    assert surcharge(*other, kernels=looked) == pytest.approx(4 * (256 + 64 + 256))
    assert unknown == {"theirs"}


def test_a_kernel_that_touches_none_of_its_arrays_costs_nothing():
    from jax.experimental import pallas as pl

    def call(x):
        anywhere = pl.BlockSpec(memory_space=pl.ANY)
        shape = jax.ShapeDtypeStruct((32, 8), jnp.float32)
        made = pl.pallas_call(
            lambda *_: None, shape, in_specs=[anywhere], out_specs=anywhere, name="made"
        )
        return made(x)

    kernels = aot_jaxpr.kernels_of(jax.jit(call).trace(np.ones((32, 8))).jaxpr)
    run = (
        "%x = f32[32,8]{1,0} parameter(0)",
        '%k = f32[32,8]{1,0} custom-call(%x), custom_call_target="tpu_custom_call", '
        'metadata={op_name="jit(f)/made/pallas_call"}',
    )
    assert surcharge(*run, kernels=aot_jaxpr.lookup(kernels, set())) == 0
    assert surcharge(*run) > 0


# The programs


def traced(spec) -> None:
    """On the CPU, from shapes alone, at the size of a toy."""
    program = aot_work.built(spec, "cpu", shrunk=True)
    for piece in program.pieces:
        assert piece.jitted.trace(*piece.arguments).jaxpr, spec.name
    assert program.items > 0 and sum(p.share for p in program.pieces) > 0


@pytest.mark.slow
def test_every_headline_program_is_built_and_traced():
    """Save the step of the test below."""
    assert len(aot.HEADLINE) <= 24
    for kind in sorted({job.spec.kind for job in aot.HEADLINE} - {"difftmr"}):
        traced(aot_work.Spec(kind, batch=8 if kind in aot_work.TRAINED else 0))


@pytest.mark.costly
def test_a_step_in_chunks_is_shared_by_devices():
    spec = aot_work.Spec("difftmr", batch=16, chunk=2)
    program = aot_work.built(spec, "cpu", 4, shrunk=True)
    lowered = program.pieces[0].jitted.lower(*program.pieces[0].arguments)
    assert "num_partitions = 4" in lowered.as_text()
    assert "in each of 8 parts" in program.shape


def test_the_second_stage_is_compiled_for_what_it_asks_for():
    program = aot_work.built(aot_work.Spec("rerank_t2m"), "cpu", shrunk=True)
    names = {piece.name for piece in program.pieces}
    assert {"perturb_t2m", "local_t2m", "reconstruct"} <= names and "weigh_words" not in names
    perturb = [p.share for p in program.pieces if p.name == "perturb_t2m"]
    assert sum(perturb) == aot_work.REPORTED / 4  # four queries are one call


def test_settings_change_the_experiment():
    config = aot_work.bench.experiment("packed", 32, 256)
    change = aot.changed(("model.hdan.steps=7", "train.backward=autodiff", "optim.clip=0.5"))
    found = change(config)
    assert found.model.hdan.steps == 7 and found.train.backward == "autodiff"
    assert found.optim.clip == 0.5 and found.train.batch_size == config.train.batch_size
    change = aot.changed(("train.remat=False", "train.text_buckets=128", "model.text.source=7"))
    read = change(config)
    assert read.train.remat is False and read.train.text_buckets == (128,)
    assert read.model.text.source == "7"
    wrongs = ("model.hdan.stepps=7", "train.epochs.x=1", "train.epochs", "train.epochs=2.5")
    for wrong in (*wrongs, "train.remat=no"):
        with pytest.raises(ValueError, match="--set"):
            aot.changed((wrong,))(config)


# What is said and stored


FOUND = {
    "fits": True,
    "hbm_gib": 2.0,
    "tflop": 1.0,
    "estimate_ms": 80.0,
    "surcharge_ms": 20.0,
    "sum_ms": 100.0,
    "copies": [],
    "sorts": {},
    "scatters": 0,
    "collectives": {},
    "launches": 9.0,
    "code_mib": 3.0,
    "compile_s": 4.0,
    "libtpu": "1",
}
JOB = aot.CHECKED[0]


def checked(found, copies=(), before=100.0, comparable=True):
    programs = {} if before is None else {JOB.key: {"sum_ms": before}}
    stored = {"allowed_copies": list(copies), "programs": programs}
    return aot.broken(JOB, FOUND | found, stored, comparable)


def test_budgets():
    assert not checked({}) and not checked({"sum_ms": 104.9})
    assert "+5.2%" in checked({"sum_ms": 105.2})[0]
    assert not checked({"sum_ms": 105.2}, comparable=False)
    assert "nothing is kept" in checked({}, before=None)[0]
    assert "does not fit" in checked({"fits": False, "error": "Used 19G"})[0]


def test_a_copy_must_be_listed_with_its_reason():
    copy = {"kind": "copy", "type": "f32[9]", "source": "x", "times": 2, "mb": 70.0}
    row = {"program": "difftmr*", "kind": "copy", "type": "f32[9]", "times": 2, "reason": "so"}
    assert "not listed" in checked({"copies": [copy]})[0]
    assert not checked({"copies": [copy]}, [row])
    assert checked({"copies": [copy | {"times": 3}]}, [row])
    assert checked({"copies": [copy]}, [row | {"program": "mbank*"}])


def test_what_does_not_fit_is_a_result_with_its_numbers():
    found = aot.refused(
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 19.30G of 15.75G hbm."
    )
    assert found["fits"] is False and found["hbm_gib"] == 19.3 and found["hbm_of_gib"] == 15.75
    broken = aot.refused(
        f"INVALID_ARGUMENT: Mosaic failed at {aot.ROOT}/tmr_jax/models/layers/bert.py"
    )
    assert broken["fits"] is None and broken["error"].endswith(
        "failed at tmr_jax/models/layers/bert.py"
    )
    said = aot.table([(JOB, found, None), (JOB, FOUND, FOUND | {"sum_ms": 50.0})])
    assert "NO" in said and "19.30" in said and "2.00 / 1.00" in said and "no speed" in said


def test_other_cycles_do_not_compare():
    assert aot.ratio(FOUND, FOUND | {"libtpu": "2"}) == "other libtpu / 1.00"
    assert aot.ratio(FOUND, None) == "new"


def test_pieces_are_added_and_memory_is_the_most():
    piece = FOUND | {"piece": "a", "parts": {"losses": [1.0, 0.5]}, "operations_top": []}
    other = piece | {"piece": "b", "hbm_gib": 1.0, "parts": {"losses": [1.0, 0.0], "x": [2.0, 0.0]}}
    found = aot.together([piece, other])
    assert found["sum_ms"] == 200 and found["hbm_gib"] == 2 and found["launches"] == 18
    assert found["parts"] == {"losses": [2.0, 0.5], "x": [2.0, 0.0]} and found["libtpu"] == "1"
    assert aot.together([piece, piece | {"fits": False}])["fits"] is False


def test_what_is_kept_is_read_again(tmp_path):
    out = tmp_path / "aot.json"
    stored = aot.load(out)
    stored["programs"] = {"b": {"ms": 1.23456789, "x": [0.000123456]}, "a": {"fits": False}}
    aot.save(out, stored)
    assert aot.load(out)["programs"] == {"a": {"fits": False}, "b": {"ms": 1.235, "x": [0.0001235]}}
    assert list(json.loads(out.read_text())) == ["programs", "check"]
    assert not list(tmp_path.glob("*.part"))


def test_all_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    jobs = aot.everything()[:4]
    stops = {jobs[2].key}

    def compiled(job, a, before):
        if job.key in stops:
            raise KeyboardInterrupt
        return dict(FOUND)

    monkeypatch.setattr(aot, "compiled", compiled)
    monkeypatch.setattr(aot, "details", lambda found, a: None)
    monkeypatch.setattr(aot, "AT_ONCE", 1)
    a = aot.Arguments(all=True, out=tmp_path / "aot.json")
    with pytest.raises(KeyboardInterrupt):
        aot.run_all(jobs, a, [])
    stored = set(aot.load(a.out)["programs"])
    assert stored <= {jobs[n].key for n in (0, 1, 3)}
    stops.clear()
    capsys.readouterr()
    rows: aot.Rows = []
    aot.run_all(jobs, a, rows)
    assert {row[0] for row in rows} == set(jobs)
    assert f"[{4 - len(stored)}/{4 - len(stored)}]" in capsys.readouterr().out


def test_what_other_code_makes_the_same_program_of_is_not_compiled_again(monkeypatch):
    job, made = aot.everything()[0], []

    def compiled(function, before=None):
        one = aot_work.Piece("piece", jax.jit(function), (jnp.zeros(3),))
        monkeypatch.setattr(aot_work, "built", lambda *_: aot_work.Program((one,), 1))
        return aot.compiled(job, aot.Arguments(all=True), before)

    monkeypatch.setattr(aot, "_piece", lambda *words: made.append(words) or {"fits": False})
    first = compiled(lambda x: x + 1) | aot.versions()
    assert compiled(lambda x: x + 1, first) == first and len(made) == 1
    assert compiled(lambda x: x + 2, first)["text"] != first["text"] and len(made) == 2
    compiled(lambda x: x + 1, first | {"libtpu": "9"})
    assert len(made) == 3


def test_exit_statuses(tmp_path, monkeypatch, capsys):
    out = tmp_path / "aot.json"
    monkeypatch.setattr(aot, "missing", lambda platform: "")
    monkeypatch.setattr(aot, "details", lambda found, a: None)
    monkeypatch.setattr(aot, "compiled", lambda job, a, before: dict(FOUND))
    monkeypatch.setattr(aot, "versions", lambda: dict(aot.PINS))
    assert aot.main(aot.Arguments(check=True, out=out)) == 1  # nothing is kept yet
    assert aot.main(aot.Arguments(check=True, accept=True, out=out)) == 0
    assert aot.main(aot.Arguments(check=True, out=out)) == 0
    monkeypatch.setattr(aot, "compiled", lambda job, a, before: FOUND | {"sum_ms": 106.0})
    assert aot.main(aot.Arguments(check=True, out=out)) == 1
    assert "BROKEN" in capsys.readouterr().out
    monkeypatch.setattr(aot, "versions", lambda: aot.PINS | {"libtpu": "9"})
    assert aot.main(aot.Arguments(check=True, out=out)) == 0
    assert "cannot be compared" in capsys.readouterr().out
    assert aot.main(aot.Arguments(programs=("nothing",), out=out)) == 2
    assert aot.main(aot.Arguments(targets=("v99",), out=out)) == 2


def test_missing_wheels_are_said_with_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "tools.aot", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if aot.missing("tpu"):
        assert done.returncode == 2 and "make setup VENV=.venv-aot EXTRAS=aot" in done.stdout
        assert len(done.stdout.splitlines()) == 1
