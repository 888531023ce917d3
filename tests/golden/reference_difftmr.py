"""DiffTMR's TAPR, HDAN and sampler in NumPy float64: an independent forward for the tests.

Written from the equations of DiffTMR alone (docs/papers.md#difftmr) and from
no code of the package, so that an agreement with the package means something.  The form is the
literal one: loops over every index, every sample drawn, no closed form.  Vectors are rows, so a
layer is ``x W + b``.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np

Array = np.ndarray
Params = Mapping[str, Array]

NORM_EPS = 1e-8
LOG_P_MIN, LOG_P_MAX = -8.0, 2.0


def _f64(x) -> Array:
    return np.asarray(x, dtype=np.float64)


def _bool(mask) -> Array:
    return np.asarray(mask).astype(bool)


def _dot(a: Array, b: Array) -> float:
    assert len(a) == len(b)
    total = 0.0
    for i in range(len(a)):
        total += float(a[i]) * float(b[i])
    return total


def _cos(a: Array, b: Array) -> float:
    norm_a = max(math.sqrt(_dot(a, a)), NORM_EPS)
    norm_b = max(math.sqrt(_dot(b, b)), NORM_EPS)
    return _dot(a, b) / (norm_a * norm_b)


def _linear(x: Array, weight, bias=None) -> Array:
    weight = _f64(weight)
    assert weight.shape[0] == len(x)
    out = np.zeros(weight.shape[1])
    for o in range(weight.shape[1]):
        out[o] = _dot(x, weight[:, o])
        if bias is not None:
            out[o] += float(bias[o])
    return out


def _relu(x: Array) -> Array:
    return _f64([max(float(value), 0.0) for value in x])


def _silu(x: Array) -> Array:
    return _f64([float(value) / (1.0 + math.exp(-float(value))) for value in x])


def _softmax(logits: Array, mask: Array) -> Array:
    """Softmax over the entries of the mask, exact zeros elsewhere."""
    out = np.zeros(len(logits))
    valid = [j for j in range(len(logits)) if mask[j]]
    if not valid:
        return out
    top = max(float(logits[j]) for j in valid)
    total = sum(math.exp(float(logits[j]) - top) for j in valid)
    for j in valid:
        out[j] = math.exp(float(logits[j]) - top) / total
    return out


# Noise schedule and step embedding


def alpha_bar(T: int) -> Array:
    """Cosine schedule: abar_k for k = 0..T, abar_0 = 1 (docs/papers.md#noise-schedule)."""

    def curve(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    abar = np.ones(T + 1)
    for i in range(T):
        # The cap keeps abar_T above zero: curve(1) itself vanishes.
        beta = min(1.0 - curve((i + 1) / T) / curve(i / T), 0.999)
        abar[i + 1] = abar[i] * (1.0 - beta)
    return abar


def time_features(k: int, D: int) -> Array:
    """Sinusoid of the step, base 10000: sines in the first half, cosines in the second."""
    assert D % 2 == 0
    half = D // 2
    out = np.zeros(D)
    for i in range(half):
        angle = int(k) * 10000.0 ** (-i / half)
        out[i] = math.sin(angle)
        out[half + i] = math.cos(angle)
    return out


# TAPR (docs/papers.md#perturbation)


def coupling(hg: Array, words: Array, mask: Array, slots: int) -> Array:
    """c_l = a_l cos(h^g, h^w_l); zeros on padding and in the slots beyond the words."""
    hg, words, mask = _f64(hg), _f64(words), _bool(mask)
    assert len(words) == len(mask) <= slots
    c = np.zeros(slots)
    for i in range(len(words)):
        if mask[i]:
            c[i] = _cos(hg, words[i])
    return c


def radius(
    c: Array, mask: Array, mode: str, params: Params | None = None, *, width: int | None = None
) -> Array:
    """P of the modes off, mean, scalar and matrix; log P is clipped in the last three.

    Only ``matrix`` knows D from its parameters: the other modes give one number repeated ``width``
    times, or an array of length 1, to be broadcast, where no width is given.
    """
    c, mask = _f64(c), _bool(mask)
    if mode == "off":
        return np.zeros(width or 1)
    if mode == "matrix":
        # No mask here: padded slots are zeros in c, and their rows of Theta add nothing.
        log_p = _linear(c, params["kernel"], params["bias"])
    elif mode in ("mean", "scalar"):
        valid = [float(c[i]) for i in range(len(mask)) if mask[i]]
        mean = sum(valid) / len(valid)
        theta = np.asarray(params["theta"]).item() if mode == "scalar" else 1.0
        log_p = np.full(width or 1, theta * mean)
    else:
        raise ValueError(f"unknown mode {mode!r}")
    return _f64([math.exp(min(max(float(v), LOG_P_MIN), LOG_P_MAX)) for v in log_p])


def perturbed(hg: Array, P: Array, eps: Array) -> Array:
    """h_P = h^g + P * eps, elementwise."""
    hg, eps = _f64(hg), _f64(eps)
    P = np.broadcast_to(_f64(P), hg.shape)
    out = np.zeros(len(hg))
    for i in range(len(hg)):
        out[i] = hg[i] + P[i] * eps[i]
    return out


def best_of(ht: Array, hg: Array, P: Array, eps: Array) -> tuple[float, int]:
    """s1 and its arg-max: the largest cosine of the text with F explicit samples.

    The first of equal samples wins.
    """
    ht, eps = _f64(ht), _f64(eps)
    if len(eps) == 0:
        raise ValueError("no sample to choose from")
    best, index = -math.inf, -1
    for f in range(len(eps)):
        score = _cos(ht, perturbed(hg, P, eps[f]))
        if score > best:
            best, index = score, f
    return best, index


# Local alignment (docs/papers.md#local-alignment)


def word_weights(words: Array, mask: Array, params: Params) -> Array:
    """f = softmax over the valid words of MLP_f; zeros on padding."""
    words, mask = _f64(words), _bool(mask)
    logits = np.zeros(len(words))
    for i in range(len(words)):
        hidden = _relu(_linear(words[i], params["W1"], params["b1"]))
        logits[i] = _linear(hidden, params["W2"], params["b2"])[0]
    return _softmax(logits, mask)


def local_score(words: Array, word_mask: Array, nodes: Array, node_mask: Array, f: Array) -> float:
    """r = sum_l f_l max_n cos(h^w_l, h^m_n) over the valid words and nodes of one pair."""
    words, nodes, f = _f64(words), _f64(nodes), _f64(f)
    word_mask, node_mask = _bool(word_mask), _bool(node_mask)
    total = 0.0
    for i in range(len(words)):
        if not word_mask[i]:
            continue
        best = -math.inf
        for n in range(len(nodes)):
            if node_mask[n]:
                best = max(best, _cos(words[i], nodes[n]))
        total += float(f[i]) * best
    return total


# HDAN (docs/papers.md#denoiser)


def hdan(
    params: Params,
    q: Array,
    u: Array,
    r: Array,
    x: Array,
    k: Array,
    mask: Array,
    *,
    gamma: float,
    xk_inside: bool = False,
    attn_scale: bool = False,
    d: float = 100.0,
) -> tuple[Array, Array]:
    """(p, x0): decoder outputs and their simplex form softmax(d p), each [B, N].

    On a padded candidate x0 is zero, and p is what the equations give with A = x_k = 0: no
    meaning is attached to it.
    """
    q, u, r, x, mask = _f64(q), _f64(u), _f64(r), _f64(x), _bool(mask)
    B, N, D = u.shape
    p = np.zeros((B, N))
    x0 = np.zeros((B, N))
    for i in range(B):
        hidden = _silu(_linear(time_features(k[i], D), params["T1"], params["t1"]))
        e = _linear(hidden, params["T2"], params["t2"])
        state = [float(x[i, j]) if mask[i, j] else 0.0 for j in range(N)]

        Q = _linear(q[i] + e, params["Wq"])
        K = [_linear(u[i, j] + e, params["Wk"]) for j in range(N)]
        V = [_linear(u[i, j] + e, params["Wv"]) for j in range(N)]
        logits = np.zeros(N)
        for j in range(N):
            logits[j] = _dot(Q, K[j])
            if attn_scale:
                logits[j] /= math.sqrt(D)
            if xk_inside:
                # After the scale: the state is a term of its own, not a part of Q K^T.
                logits[j] += state[j]
        A = _softmax(logits, mask[i])

        z = np.zeros(D)
        for j in range(N):
            weight = A[j] if xk_inside else A[j] + state[j]
            for c in range(D):
                z[c] += weight * V[j][c]
        z = _linear(z, params["Wo"], params["bo"])

        for j in range(N):
            J = np.zeros(D)
            for c in range(D):
                # The depthwise part belongs to the candidate j, never to the query's row.
                e_global = z[c] + (params["a"][c] * V[j][c] + params["b"][c])
                e_local = r[i, j] * params["wl"][c] + params["bl"][c]
                J[c] = gamma * e_local + (1.0 - gamma) * e_global
            joined = _f64([*J, *u[i, j]])
            hidden = _relu(_linear(joined, params["W1"], params["b1"]))
            p[i, j] = _linear(hidden, params["W2"], params["b2"])[0] + A[j]
        x0[i] = _softmax(_f64([d * float(p[i, j]) for j in range(N)]), mask[i])
    return p, x0


def kl(target: Array, logits: Array, mask: Array) -> Array:
    """KL(target || softmax of the valid logits) of each row, with its entropy term, 0 log 0 = 0."""
    target, logits, mask = _f64(target), _f64(logits), _bool(mask)
    B, N = target.shape
    out = np.zeros(B)
    for i in range(B):
        valid = [float(logits[i, j]) for j in range(N) if mask[i, j]]
        # In logarithms: with d = 100 a softmax entry may be zero in float64.
        top = max(valid)
        log_total = top + math.log(sum(math.exp(value - top) for value in valid))
        for j in range(N):
            t = float(target[i, j])
            if t == 0.0:
                continue
            log_q = float(logits[i, j]) - log_total if mask[i, j] else -math.inf
            out[i] += t * (math.log(t) - log_q)
    return out


# Sampler (docs/papers.md#sampler)


def visited(T: int, S: int) -> list[int]:
    """K_S = unique(round(linspace(T, 1, S))), from T downwards; halves round to even."""
    assert 1 <= S <= T
    steps = {round(float(value)) for value in np.linspace(T, 1, S)}
    return sorted(steps, reverse=True)


def ddim(predict: Callable[[Array, int], Array], x: Array, T: int, S: int) -> Array:
    """Deterministic DDIM from the noise x (any shape); the x0 of the last visited step."""
    x = _f64(x).copy()
    abar = alpha_bar(T)
    steps = visited(T, S)
    x0 = x
    for n, k in enumerate(steps):
        after = steps[n + 1] if n + 1 < len(steps) else 0
        x0 = _f64(predict(x.copy(), k))
        state = np.zeros(x.shape)
        for at in np.ndindex(x.shape):
            eps = (x[at] - math.sqrt(abar[k]) * x0[at]) / math.sqrt(1.0 - abar[k])
            state[at] = math.sqrt(abar[after]) * x0[at] + math.sqrt(1.0 - abar[after]) * eps
        x = state
    return x0
