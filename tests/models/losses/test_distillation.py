"""Distillation against a loop, and what must be zero (Hinton et al. 2015, arXiv 1503.02531)."""

import jax
import numpy as np

from tmr_jax.models.losses import TEACHING, distillation


def cosines(seed, rows=5):
    return np.random.default_rng(seed).uniform(-1, 1, (rows, rows)).astype(np.float32)


def divergence(p, q):
    p, q = (np.exp(x / TEACHING) / np.exp(x / TEACHING).sum() for x in (p, q))
    return sum(a * np.log(a / b) for a, b in zip(p, q, strict=True))


def test_equals_a_loop_over_rows_and_columns():
    student, teacher = cosines(0), cosines(1)
    rows = [divergence(teacher[i], student[i]) for i in range(5)]
    columns = [divergence(teacher[:, i], student[:, i]) for i in range(5)]
    wanted = (np.mean(rows) + np.mean(columns)) / 2
    np.testing.assert_allclose(distillation(student, teacher), wanted, rtol=1e-4)


def test_a_student_like_its_teacher_has_nothing_to_learn():
    teacher = cosines(1)
    loss, slope = jax.value_and_grad(distillation)(teacher, teacher)
    np.testing.assert_allclose(loss, 0, atol=1e-6)
    np.testing.assert_allclose(slope, 0, atol=1e-6)
    slope = jax.grad(distillation)(teacher + 0.1 * np.eye(5, dtype=np.float32), teacher)
    assert (np.diag(slope) > 0).all()  # a cosine above the teacher's is drawn down
