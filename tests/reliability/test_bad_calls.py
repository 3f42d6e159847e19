"""Bad calls: the exact exception, and in its message the argument, the value that came and how to fix it."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import cregkit as ck
from cregkit import augment as aug
from cregkit import commands, train

# Call, exception, and parts of its message: the argument, what came, what was needed.
CALLS: list[tuple[str, type[Exception], str, str, str]] = [
    ("ck.layer_norm(x.astype(np.float64))", TypeError, "x", "float64", "convert it with x.astype(np.float32)"),
    ("ck.layer_norm(x.tolist())", TypeError, "x", "list", "convert it with np.asarray(x, dtype=np.float32)"),
    (
        "ck.layer_norm(x[:, ::2])",
        ValueError,
        "x",
        "shape (3, 3) with strides (24, 8)",
        "copy it with np.ascontiguousarray(x)",
    ),
    ("ck.layer_norm(x, gamma=one)", ValueError, "gamma", "(1,)", "shape (6,), one value per feature"),
    ("ck.layer_norm(x, gamma=c, beta=x)", ValueError, "beta", "(3, 6)", "shape (6,), one value per feature"),
    ("ck.layer_norm(x, eps=-1.0)", ValueError, "eps", "-1.0", "finite and at least 0"),
    ('ck.layer_norm(x, eps="small")', TypeError, "eps", "str", "a number"),
    ('ck.layer_norm(x, eps=float("nan"))', ValueError, "eps", "nan", "finite and at least 0"),
    ("ck.layer_norm(x[:, :0])", ValueError, "x", "shape (3, 0)", "not be empty"),
    ("ck.layer_norm(np.float32(1.0))", TypeError, "x", "float32", "convert it with np.asarray(x, dtype=np.float32)"),
    ("ck.layer_norm(np.ma.masked_array(x))", TypeError, "x", "masked array", "x.filled(value)"),
    ("ck.layer_norm(x, out=x[:1])", ValueError, "out", "(1, 6)", "the shape of x, (3, 6)"),
    ("ck.layer_norm(x, out=read_only)", ValueError, "out", "read-only", "out.copy()"),
    ("ck.layer_norm(x, out=shifted(x))", ValueError, "out", "overlaps x", "pass a separate array, or x itself"),
    (
        "ck.layer_norm_backward(x, x, m.astype(np.float32), m)",
        TypeError,
        "mean",
        "float32",
        "convert it with mean.astype(np.float64)",
    ),
    (
        "ck.layer_norm_backward(x, x, m[:1], m)",
        ValueError,
        "mean",
        "(1,)",
        "shape (3,), as the forward pass returned it",
    ),
    ("ck.layer_norm_backward(x[:1], x, m, m)", ValueError, "dy", "(1, 6)", "the shape of x, (3, 6)"),
    ("ck.rms_norm(x.astype(np.int8))", TypeError, "x", "int8", "float32, float16 or bfloat16"),
    ("ck.rms_norm(x, gamma=c.astype(np.float16))", TypeError, "gamma", "float16", "gamma.astype(np.float32)"),
    (
        "ck.layer_norm_backward(x, x.astype(np.float16), m, m)",
        TypeError,
        "dy",
        "got float32",
        "float16 like x, got float32: convert it with dy.astype(x.dtype)",
    ),
    ("ck.l2_penalty(x.astype(np.float16), 0.1)", TypeError, "w", "float16", "convert it with w.astype(np.float32)"),
    (
        "ck.rms_norm(x, gamma=[1.0] * 6)",
        TypeError,
        "gamma",
        "list",
        "convert it with np.asarray(gamma, dtype=np.float32)",
    ),
    ('ck.rms_norm(x, eps=float("inf"))', ValueError, "eps", "inf", "finite and at least 0"),
    (
        "ck.rms_norm_backward(x, x, None)",
        TypeError,
        "rstd",
        "NoneType",
        "convert it with np.asarray(rstd, dtype=np.float64)",
    ),
    ("ck.layer_norm(x, axis=2)", ValueError, "axis", "got 2", "from -2 to 1 for x of shape (3, 6)"),
    ("ck.layer_norm(x, axis=1.0)", TypeError, "axis", "float 1.0", "an int or a tuple of ints"),
    (
        "ck.layer_norm(x.reshape(3, 2, 3), axis=(0, -1))",
        ValueError,
        "axis",
        "got (0, -1) for x of shape (3, 2, 3)",
        "one axis of x, or several neighbouring ones such as (-2, -1)",
    ),
    (
        "ck.rms_norm(x.reshape(3, 2, 3, 1), axis=(1, 3))",
        ValueError,
        "axis",
        "got (1, 3)",
        "pass np.ascontiguousarray(np.moveaxis(x, (1, 3), (-2, -1))) and axis=(-2, -1)",
    ),
    ("ck.layer_norm(x, gamma=c, axis=0)", ValueError, "gamma", "(6,)", "shape (3,), one value per feature"),
    (
        "ck.rms_norm_backward(x, x, m, axis=0)",
        ValueError,
        "rstd",
        "(3,)",
        "shape (6,), as the forward pass returned it",
    ),
    ("ck.rms_norm(x, axis=())", ValueError, "axis", "got ()", "at least one axis"),
    ("ck.rms_norm(x, axis=(1, -1))", ValueError, "axis", "got (1, -1)", "each only once"),
    ("ck.rms_norm(x, gamma=c, axis=(0, 1))", ValueError, "gamma", "(6,)", "shape (3, 6), one value per feature"),
    ("ck.rms_norm(x[:0], axis=(0, 1))", ValueError, "x", "shape (0, 6)", "its axis 0 must not be empty"),
    ("ck.rms_norm(x, gain_offset=1.0)", ValueError, "gain_offset", "got 1.0", "pass gamma, to which it is added"),
    ("ck.rms_norm(x, c, gain_offset=1e39)", ValueError, "gain_offset", "1e+39", "to 3.40282e+38"),
    ("ck.rms_norm_backward(x, x, m[:2])", ValueError, "rstd", "(2,)", "shape (3,), as the forward pass returned it"),
    ("ck.batch_norm(c, c, c)", ValueError, "x", "shape (6,)", "at least two dimensions (samples and channels)"),
    ("ck.batch_norm(x, None, c)", TypeError, "mean", "None", "an array of shape (6,)"),
    ("ck.batch_norm(x, c, one)", ValueError, "var", "(1,)", "shape (6,), one value per feature"),
    (
        "ck.batch_norm(x, c, c, channel_axis=0)",
        ValueError,
        "channel_axis",
        "0",
        "1 (channels first) or -1 (channels last)",
    ),
    ('ck.batch_norm(x, c, c, channel_axis="last")', TypeError, "channel_axis", "str", "1 or -1"),
    (
        "ck.batch_norm_forward(x[:1])",
        ValueError,
        "x",
        "shape (1, 6)",
        "use batch_norm with running statistics, or a larger batch",
    ),
    ("ck.batch_norm_forward(x, momentum=1.5)", ValueError, "momentum", "1.5", "from 0 to 1"),
    (
        "ck.batch_norm_forward(x, running_mean=one)",
        ValueError,
        "running_mean",
        "(1,)",
        "shape (6,), one value per feature",
    ),
    (
        "ck.batch_norm_forward(x, running_mean=c, running_var=c)",
        ValueError,
        "running_mean",
        "overlaps running_var",
        "pass a separate array",
    ),
    (
        "ck.batch_norm_forward(x, running_mean=read_only[0])",
        ValueError,
        "running_mean",
        "read-only",
        "running_mean.copy()",
    ),
    ("ck.batch_norm_backward(x, x, c, m6)", TypeError, "mean", "float32", "convert it with mean.astype(np.float64)"),
    ("ck.batch_norm_inference_backward(x, x, c, None)", TypeError, "var", "None", "an array of shape (6,)"),
    (
        "ck.ghost_batch_norm_forward(c, 2)",
        ValueError,
        "x",
        "shape (6,)",
        "at least two dimensions (samples and channels)",
    ),
    ("ck.ghost_batch_norm_forward(x, 0)", ValueError, "virtual_batch_size", "0", "at least 1"),
    ("ck.ghost_batch_norm_forward(x, 2.0)", TypeError, "virtual_batch_size", "2.0", "a whole number"),
    (
        "ck.ghost_batch_norm_forward(x, 2)",
        ValueError,
        "x",
        "shape (3, 6) with virtual_batch_size=2",
        "at least two values per channel in each virtual batch",
    ),
    (
        "ck.ghost_batch_norm_forward(np.zeros((4, 6, 0), np.float32), 2)",
        ValueError,
        "x",
        "shape (4, 6, 0)",
        "only its first axis may be empty",
    ),
    ("ck.ghost_batch_norm_backward(x, x, 2, m, m)", ValueError, "mean", "(3,)", "shape (2, 6)"),
    ("ck.group_norm(c, 2)", ValueError, "x", "shape (6,)", "at least two dimensions (samples and channels)"),
    ("ck.group_norm(x, 4)", ValueError, "num_groups", "4", "divide the 6 channels"),
    ("ck.group_norm(x, 0)", ValueError, "num_groups", "0", "divide the 6 channels"),
    ("ck.group_norm(x, 2.0)", TypeError, "num_groups", "2.0", "a whole number"),
    ("ck.group_norm(x, 2, gamma=one)", ValueError, "gamma", "(1,)", "shape (6,), one value per feature"),
    (
        "ck.group_norm(np.zeros((3, 6, 0), np.float32), 2)",
        ValueError,
        "x",
        "shape (3, 6, 0)",
        "only its first axis may be empty",
    ),
    ("ck.group_norm_backward(x, x, m, m)", ValueError, "mean", "(3,)", "as the forward pass returned it"),
    (
        "ck.instance_norm_forward(x, running_var=c)",
        ValueError,
        "x",
        "shape (3, 6)",
        "at least two values per channel of a sample",
    ),
    ("ck.GroupNorm(4, 6)", ValueError, "num_channels", "6", "a multiple of num_groups=4"),
    ("ck.GroupNorm(2, 4)(x)", ValueError, "num_channels=4", "6", "features on axis 1"),
    ("ck.InstanceNorm(6)(x)", ValueError, "x", "(3, 6)", "at least two positions per channel"),
    ("ck.dropout(x, 1.5, seed=1)", ValueError, "p", "1.5", "from 0 to 1"),
    ('ck.dropout(x, "half", seed=1)', TypeError, "p", "str", "a number"),
    ("ck.dropout(x, 0.5, seed=-1)", ValueError, "seed", "-1", "from 0 to 2**64 - 1"),
    ("ck.dropout(x, 0.5, seed=2**64)", ValueError, "seed", "18446744073709551616", "from 0 to 2**64 - 1"),
    ("ck.dropout(x, 0.5, seed=1.0)", TypeError, "seed", "float", "a whole number"),
    (
        "ck.dropout(x, 0.5, seed=1, offset=2**64 - 3)",
        ValueError,
        "offset",
        "18446744073709551613",
        "room for 18 draws below 2**64",
    ),
    (
        "ck.dropout_backward(x.astype(np.int32), seed=1)",
        TypeError,
        "dy",
        "int32",
        "convert it with dy.astype(np.float32)",
    ),
    ("ck.dropout_keep((3, -1), seed=1)", ValueError, "shape", "(3, -1)", "of sizes from 0 up that fit in memory"),
    (
        "ck.dropout_keep((2**40, 2**40), seed=1)",
        ValueError,
        "shape",
        "(1099511627776, 1099511627776)",
        "of sizes from 0 up that fit in memory",
    ),
    ('ck.dropout_keep("3", seed=1)', TypeError, "shape", "'3'", "whole numbers"),
    ("ck.spatial_dropout(c, seed=1)", ValueError, "x", "(6,)", "shape (samples, channels, ...)"),
    ("ck.spatial_dropout_backward(x, 2, seed=1)", ValueError, "p", "2", "from 0 to 1"),
    ("ck.spatial_dropout(x, seed=1, channel_axis=3)", ValueError, "channel_axis", "3", "1 (channels first) or -1"),
    ('ck.drop_path(x, seed=1, mode="column")', ValueError, "mode", "'column'", "'row' or 'batch'"),
    ("ck.drop_path(np.float32(1)[()], seed=1)", TypeError, "x", "float32", "convert it with np.asarray(x"),
    ("ck.drop_path_backward(np.ones((), np.float32), seed=1)", ValueError, "dy", "()", "shape (samples, ...)"),
    ("ck.drop_block(x, seed=1)", ValueError, "x", "(3, 6)", "shape (samples, channels, height, width)"),
    ("ck.drop_block(x[None, None], block_size=0, seed=1)", ValueError, "block_size", "0", "at least 1"),
    ("ck.drop_block_backward(x[None, None], block_size=1.5, seed=1)", TypeError, "block_size", "1.5", "whole number"),
    ("ck.alpha_dropout(x, -1, seed=1)", ValueError, "p", "-1", "from 0 to 1"),
    ("ck.feature_alpha_dropout(c, seed=1)", ValueError, "x", "(6,)", "shape (samples, channels, ...)"),
    ("ck.l2_penalty(x, -0.1)", ValueError, "weight_decay", "-0.1", "finite and at least 0"),
    ('ck.l2_penalty("w", 0.1)', TypeError, "w", "str", "convert it with np.asarray(w, dtype=np.float32)"),
    ('ck.l2_gradient(x, float("nan"))', ValueError, "weight_decay", "nan", "from 0 to 3.40282e+38"),
    ('ck.sgd_step(x, x.copy(), float("inf"))', ValueError, "lr", "inf", "from 0 to 3.40282e+38"),
    ("ck.sgd_step(x, x, 0.1)", ValueError, "w", "overlaps dw", "pass a separate array"),
    ("ck.sgd_step(x, x[:1].copy(), 0.1)", ValueError, "dw", "(1, 6)", "the shape of w, (3, 6)"),
    (
        "ck.sgd_step(x, x.copy(), 0.1, momentum=0.9)",
        ValueError,
        "velocity",
        "momentum 0.9 needs it",
        "pass zeros like w before the first step",
    ),
    ("ck.sgd_step(read_only, x, 0.1)", ValueError, "w", "read-only", "w.copy()"),
    (
        "ck.adamw_step(x, x.copy(), x.copy(), x.copy(), 0, 0.1)",
        ValueError,
        "step",
        "0",
        "from 1 (the first step) to 2**63 - 1",
    ),
    ("ck.adamw_step(x, x.copy(), x.copy(), x.copy(), 1.5, 0.1)", TypeError, "step", "float", "a whole number"),
    (
        "ck.adamw_step(x, x.copy(), x.copy(), x.copy(), 1, 0.1, betas=0.9)",
        ValueError,
        "betas",
        "0.9",
        "a pair of numbers",
    ),
    (
        "ck.adamw_step(x, x.copy(), x.copy(), x.copy(), 1, 0.1, betas=(0.9, 1.0))",
        ValueError,
        "betas[1]",
        "1.0",
        "less than 1, or nothing new would ever count",
    ),
    ("ck.adamw_step(x, x.copy(), x.copy(), one, 1, 0.1)", ValueError, "v", "(1,)", "the shape of w, (3, 6)"),
    ("ck.sum_squares(x, clipvalue=0)", ValueError, "clipvalue", "0", "from 1.17549e-38 to 3.40282e+38"),
    ("ck.sgd_step(x, x.copy(), 0.1, l1=-1)", ValueError, "l1", "-1", "from 0 to 3.40282e+38"),
    ("ck.sgd_step(x, x.copy(), 0.1, scale=-1)", ValueError, "scale", "-1", "from 0 to 3.40282e+38"),
    ("ck.sgd_step(x, x.copy(), 0.1, average=one)", ValueError, "average", "(1,)", "the shape of w, (3, 6)"),
    ("ck.sgd_step(x, c, 0.1, average=x)", ValueError, "dw", "(6,)", "the shape of w, (3, 6)"),
    ("ck.sgd_step(x, x.copy(), 0.1, average=x)", ValueError, "average", "overlaps w", "pass a separate array"),
    (
        "ck.adamw_step(x, x.copy(), x.copy(), x.copy(), 1, 0.1, average=x.copy(), ema_momentum=2)",
        ValueError,
        "ema_momentum",
        "2",
        "from 0 to 1",
    ),
    ("ck.max_norm(x, 0)", ValueError, "max_value", "0", "from 1.17549e-38 to 3.40282e+38"),
    ("ck.max_norm(c, 1)", ValueError, "w", "(6,)", "at least two axes"),
    ("ck.dropout_add_layer_norm_forward(x, x[:1])", ValueError, "residual", "(1, 6)", "the shape of x, (3, 6)"),
    ("ck.dropout_add_layer_norm_forward(x, x, p=0.5)", TypeError, "seed", "p = 0.5", "pass seed= an int"),
    ("ck.dropout_add_layer_norm_forward(x, x, out=shifted(x))", ValueError, "out", "overlaps x", "a separate array"),
    (
        "ck.dropout_add_layer_norm_backward(x, x, m, m[:2])",
        ValueError,
        "rstd",
        "(2,)",
        "shape (3,), as the forward pass returned it",
    ),
    (
        "ck.dropout_add_rms_norm_forward(x, x.astype(np.float64))",
        TypeError,
        "residual",
        "float64",
        "float32 like x, got float64: convert it with residual.astype(x.dtype)",
    ),
    ("ck.dropout_add_rms_norm_forward(x, x, p=-0.5)", ValueError, "p", "-0.5", "from 0 to 1"),
    ("ck.dropout_add_rms_norm_backward(x, x, m, dh=x[:1])", ValueError, "dh", "(1, 6)", "the shape of h, (3, 6)"),
    ("ck.MultiHeadAttention(6, 4)", ValueError, "n_heads", "n_heads=4", "divide d_model"),
    ("ck.MultiHeadAttention(6, 0)", ValueError, "n_heads", "0", "at least 1"),
    ("ck.Embedding(0, 3)", ValueError, "num_embeddings", "0", "at least 1"),
    ("ck.Embedding(5, 3)(np.array([5]))", ValueError, "x", "got 5", "ids from 0 to 4, the vocabulary"),
    ("ck.Embedding(5, 3)(x)", TypeError, "x", "a float32 array", "an integer array of ids"),
    (
        "ck.PositionalEmbedding(4, 6)(np.zeros((1, 5, 6), np.float32))",
        ValueError,
        "x",
        "got 5",
        "at most max_length=4 positions",
    ),
    ("ck.TransformerBlock(6, 2, 0)", ValueError, "d_ff", "0", "at least 1"),
    (
        'ck.Transformer(vocab_size=5, max_length=4, n_layers=1, d_model=6, n_heads=2, norm="batch")',
        ValueError,
        "norm",
        "'batch'",
        "'layer' or 'rms'",
    ),
    ("ck.BatchNorm(6).forward(x, mask=np.ones(2, bool))", ValueError, "mask", "(2,)", "shape (3,), the shape of x"),
    ("ck.set_num_threads(0)", ValueError, "n", "0", "a number of threads from 1 to 4096"),
    ('ck.set_num_threads("two")', TypeError, "n", "str", "a whole number of threads"),
    ("ck.num_threads(5000)", ValueError, "n", "5000", "a number of threads from 1 to 4096"),
    ("ck.Linear(0, 3)", ValueError, "in_features", "0", "at least 1"),
    ("ck.Linear(3, 2.5)", TypeError, "out_features", "float", "an int"),
    ("ck.Linear(6, 2)(x.astype(np.float64))", TypeError, "x", "a float64 array", "use np.asarray(x, dtype=np.float32)"),
    ("ck.Linear(5, 2)(x)", ValueError, "x", "(3, 6)", "shape (..., in_features) with in_features=5"),
    ("ck.Dropout(-0.1)", ValueError, "p", "-0.1", "in [0, 1]"),
    ("ck.Dropout(True)", TypeError, "p", "bool", "a number"),
    ('ck.Dropout(0.5, seed="lucky")', TypeError, "seed", "str", "an int, a numpy Generator or SeedSequence, or None"),
    ("ck.Dropout(0.5, seed=2**64)", ValueError, "seed", "18446744073709551616", "in [0, 2**64)"),
    ("ck.BatchNorm(0)", ValueError, "num_features", "0", "at least 1"),
    ("ck.BatchNorm(6, momentum=-0.1)", ValueError, "momentum", "-0.1", "in [0, 1]"),
    ("ck.BatchNorm(6, channel_axis=3)", ValueError, "channel_axis", "3", "1 (channels first) or -1"),
    ("ck.BatchNorm(6, virtual_batch_size=0)", ValueError, "virtual_batch_size", "0", "at least 1"),
    ("ck.BatchNorm(6, virtual_batch_size=1.0)", TypeError, "virtual_batch_size", "1.0", "an int"),
    (
        "ck.BatchNorm(6, virtual_batch_size=2)(x)",
        ValueError,
        "x",
        "shape (3, 6) with virtual_batch_size=2",
        "at least two values per channel in each virtual batch",
    ),
    (
        "ck.BatchNorm(6, virtual_batch_size=2).forward(x, mask=np.zeros(3, bool))",
        ValueError,
        "mask",
        "got 1",
        "at least two positions in each virtual batch of 2 samples",
    ),
    (
        "ck.BatchNorm(5, virtual_batch_size=3)(x)",
        ValueError,
        "x",
        "got 6 (shape (3, 6))",
        "num_features=5 features on axis 1",
    ),
    ("ck.BatchNorm(5)(x)", ValueError, "x", "got 6 (shape (3, 6))", "num_features=5 features on axis 1"),
    (
        "ck.BatchNorm(6)(x[:1])",
        ValueError,
        "x",
        "shape (1, 6)",
        "use batch_norm with running statistics, or a larger batch",
    ),
    ('ck.LayerNorm("6")', TypeError, "num_features", "str", "an int"),
    ("ck.LayerNorm(6, eps=-1)", ValueError, "eps", "got -1", "finite and at least 0"),
    ("ck.LayerNorm(5)(x)", ValueError, "x", "got 6 (shape (3, 6))", "num_features=5 features on axis -1"),
    (
        "ck.LayerNorm(6, channel_axis=0)",
        ValueError,
        "channel_axis",
        "got 0",
        "1 (channels first) or -1 (channels last)",
    ),
    ("ck.LayerNorm((3, 6), channel_axis=1)", ValueError, "num_features", "tuple (3, 6)", "pass the size of one axis"),
    (
        "ck.LayerNorm(5, channel_axis=1)(x)",
        ValueError,
        "x",
        "got 6 (shape (3, 6))",
        "num_features=5 features on axis 1",
    ),
    ("ck.RMSNorm(6, channel_axis=1)(c)", ValueError, "x", "got shape (6,)", "at least two dimensions"),
    ('ck.RMSNorm(6, eps=float("nan"))', ValueError, "eps", "nan", "finite and at least 0"),
    ("ck.RMSNorm(5)(x)", ValueError, "x", "got 6 (shape (3, 6))", "num_features=5 features on axis -1"),
    ("ck.Sequential()", ValueError, "layers", "none", "at least one layer"),
    ('ck.Sequential(ck.ReLU(), "relu")', TypeError, "layers", "str", "Layer objects"),
    ("ck.ReLU().backward(x)", RuntimeError, "ReLU.backward", "needs a forward before each backward", "call the layer"),
    ("forwarded(ck.LayerNorm(6), x).backward(x[:1])", ValueError, "dy", "(1, 6)", "the shape of x, (3, 6)"),
    (
        "forwarded(ck.Dropout(0.5), x).backward(x[:1])",
        ValueError,
        "dy",
        "(1, 6)",
        "the shape of the forward's output, (3, 6)",
    ),
    ("ck.LayerNorm(6).load_state_dict([1])", TypeError, "state", "list", "a mapping of names to arrays"),
    ('ck.LayerNorm(6).load_state_dict({"gamma": c})', ValueError, "state", "missing beta", "nothing was loaded"),
    (
        'ck.LayerNorm(6).load_state_dict({"gamma": c, "beta": c.astype(np.float64)})',
        ValueError,
        "beta",
        "float64 of shape (6,)",
        "float32 of shape (6,)",
    ),
    (
        "ck.LayerNorm(6).load(__file__)",
        ValueError,
        "test_bad_calls.py",
        "is damaged or is not",
        "an uncompressed .npz file of plain arrays",
    ),
    ('ck.LayerNorm(6).load("/no/such/file.npz")', FileNotFoundError, "/no/such/file.npz", "No such file", ""),
    (
        "train.softmax_cross_entropy(x, np.full(3, 6))",
        ValueError,
        "targets",
        "got 6",
        "from 0 to 5 for logits of shape (3, 6)",
    ),
    ("train.softmax_cross_entropy(x, np.zeros(2, int))", ValueError, "targets", "(2,)", "shape (3,), one for each row"),
    (
        "train.softmax_cross_entropy(x, [0, 1, 2])",
        TypeError,
        "targets",
        "list",
        "class indices (an array of any integer dtype) or a float32 array",
    ),
    ("train.softmax_cross_entropy(x, labels, label_smoothing=1.5)", ValueError, "label_smoothing", "1.5", "in [0, 1]"),
    (
        "train.mean_squared_error(x, x[:1])",
        ValueError,
        "targets",
        "(1, 6) and (3, 6)",
        "must have the same shape and not be empty",
    ),
    ("train.binary_cross_entropy(x, x + 2)", ValueError, "targets", "got 2.0", "in [0, 1]"),
    ("train.SGD(ck.ReLU())", ValueError, "network", "ReLU without any", "parameters to train"),
    ('train.SGD("network")', TypeError, "network", "str", "a Layer"),
    ("train.SGD(net, lr=-0.1)", ValueError, "lr", "-0.1", "finite and at least 0"),
    ("train.SGD(net, momentum=2)", ValueError, "momentum", "got 2", "in [0, 1]"),
    ("train.AdamW(net, betas=(0.9,))", ValueError, "betas", "(0.9,)", "a tuple of two numbers"),
    ("train.AdamW(net, eps=-1e-8)", ValueError, "eps", "-1e-08", "finite and at least 0"),
    (
        "train.SGD(net).step()",
        RuntimeError,
        "0.weight, 0.bias",
        "no gradient yet",
        "call the network's backward before step",
    ),
    ("train.EarlyStopping(patience=0)", ValueError, "patience", "0", "at least 1"),
    (
        'train.EarlyStopping(monitor="accuracy")',
        ValueError,
        "monitor",
        "'accuracy'",
        "one of 'train_loss', 'test_loss', 'gap', 'train_acc', 'test_acc'",
    ),
    ("train.Schedule(0.1)", TypeError, "function", "float 0.1", "a function of the step"),
    ("train.cosine_schedule(9, warmup_steps=9)", ValueError, "warmup_steps", "9", "in [0, 8]"),
    ("train.step_schedule(0)", ValueError, "step_size", "0", "at least 1"),
    ("train.ReduceOnPlateau(cooldown=-1)", ValueError, "cooldown", "-1", "at least 0"),
    (
        "fit(callbacks=[train.Schedule(lambda step: -1.0)])",
        ValueError,
        "function(0)",
        "-1.0",
        "finite and at least 0",
    ),
    ("fit(epochs=0)", ValueError, "epochs", "0", "at least 1"),
    ("fit(epochs=1.5)", TypeError, "epochs", "float", "an int"),
    ("fit(batch_size=0)", ValueError, "batch_size", "0", "at least 1"),
    ('fit(network="net")', TypeError, "network", "str", "a Layer"),
    (
        "fit(optimizer=train.SGD(ck.Linear(6, 3)))",
        ValueError,
        "optimizer",
        "made for another network",
        "must be made for network or for a layer in it",
    ),
    (
        "fit(train=(x, labels[:2]))",
        ValueError,
        "train",
        "shapes (3, 6) and (2,)",
        "one target for each sample, and at least one",
    ),
    (
        "fit(train=(x.astype(np.float64), labels))",
        TypeError,
        "train[0]",
        "a float64 array",
        "use np.asarray(train[0], dtype=np.float32)",
    ),
    ("fit(train=[x, labels])", TypeError, "train", "list", "a tuple (x, y)"),
    ("fit(train=(x, labels + 9))", ValueError, "train", "got 9", "from 0 to 2 for logits of shape (3, 3)"),
    ('fit(callbacks=["print"])', TypeError, "callbacks", "str", "Callback objects or functions"),
    ("fit(seed=-1)", ValueError, "seed", "-1", "in [0, 2**64)"),
    (
        "fit(callbacks=[train.EarlyStopping()], test=None)",
        ValueError,
        "monitor",
        "test=None",
        "monitor 'train_loss' instead",
    ),
    ("ck.advise()", TypeError, "train_acc", "advise needs", "both in percent, or a history"),
    ("ck.advise(99)", TypeError, "test_acc", "advise needs", "both in percent, or a history"),
    ("ck.advise(140, 60)", ValueError, "train_acc", "140", "(percent) must be in [0, 100]"),
    ('ck.advise("99", 60)', TypeError, "train_acc", "str", "a number"),
    (
        'ck.advise(99, 60, model="perceptron")',
        ValueError,
        "model",
        "'perceptron'",
        "None or one of 'mlp', 'cnn', 'transformer', 'llm'",
    ),
    ("ck.advise(99, 60, batch_size=0)", ValueError, "batch_size", "0", "at least 1"),
    ('ck.advise(99, 60, optimizer="magic")', ValueError, "optimizer", "'magic'", "None or one of 'sgd', 'adam'"),
    ("ck.advise(history=3)", TypeError, "history", "int", "a path, a History or a mapping of lists"),
    (
        'ck.advise(history={"colour": [1]})',
        ValueError,
        "history",
        "the columns colour",
        "val_acc, val_accuracy or test_acc",
    ),
    ('ck.advise(history="/no/such/history.csv")', FileNotFoundError, "/no/such/history.csv", "No such file", ""),
]


def fit(**given: Any) -> Any:
    """Train for one epoch with good arguments, except those given."""
    x, network = np.zeros((3, 6), np.float32), ck.Sequential(ck.Linear(6, 3))
    data = (x, np.arange(3))
    arguments = {"network": network, "loss": train.softmax_cross_entropy, "train": data, "test": data, "epochs": 1}
    return train.fit(**{"optimizer": train.SGD(network), **arguments, **given})


def forwarded(layer: ck.Layer, x: Any) -> ck.Layer:
    layer(x)
    return layer


def names() -> dict[str, Any]:
    """The names in the calls, new for each call."""
    memory = np.zeros(19, np.float32)
    read_only = np.zeros((3, 6), np.float32)
    read_only.setflags(write=False)
    arrays = {"x": memory[:18].reshape(3, 6), "shifted": lambda x: memory[1:].reshape(3, 6), "read_only": read_only}
    vectors = {
        "c": np.ones(6, np.float32),
        "one": np.ones(1, np.float32),
        "m": np.ones(3),
        "m6": np.ones(6, np.float32),
    }
    network = ck.Sequential(ck.Linear(6, 3))
    modules = {"np": np, "ck": ck, "train": train, "fit": fit, "forwarded": forwarded, "__file__": __file__}
    return {**modules, **arrays, **vectors, "net": network, "labels": np.arange(3)}


# Call, and the value given: the error shows that value, neither another element nor a rounded one.
GIVEN: list[tuple[str, str]] = [
    ("aug.Augmentation(mix=aug.Mixup(), classes=3, seed=1)((images, np.array([2, -1, 2])), [0, 1, 2], epoch=0)", "-1"),
    ("aug.HorizontalFlip()(images, index=[5, -7, 2**32 - 1], seed=1)", "-7"),
    ("aug.HorizontalFlip()(images, index=[5, 2**32, 0], seed=1)", "4294967296"),
    ("aug.HorizontalFlip()(images, index=[2**64, 1, 2], seed=1)", "18446744073709551616"),
    ("aug.HorizontalFlip()(images, index=[0.5, 1, 2], seed=1)", "0.5"),
    ("aug.AugmentedDataset((images, labels), aug.Augmentation(seed=1))[-4]", "-4"),
    ("aug.HorizontalFlip(p=2)", "2"),
    ("aug.HorizontalFlip(p='often')", "'often'"),
    ("aug.RandomApply(aug.HorizontalFlip(), p=1.0000000001)", "1.0000000001"),
    ("aug.Rotation((1, 2, 3))", "(1, 2, 3)"),
    ("aug.Rotation(10**400)", "1" + 400 * "0"),
    ("aug.RandomCrop((1, 2, 3))", "(1, 2, 3)"),
    ("aug.RandomCrop(2.5)", "2.5"),
    ("aug.Cutout((3,))", "(3,)"),
    ("aug.OneOf(aug.Compose(), weights=[1, 2])", "[1, 2]"),
    ("aug.OneOf(aug.Compose(), weights=[0])", "[0]"),
    ("aug.CutMix(channel_axis=-2)", "-2"),
    ("aug.ColorJitter(0.1)(images - np.float32(0.3), index=labels, seed=1)", "-0.3 to 0.7"),
    ("ck.jitter_images(images, np.float32([[1, 1, -0.1, 0]] * 3))", "-0.1"),
    ("ck.mixup_images(images, images, np.float32([0, 1.1, 0]))", "1.1"),
    ("ck.gaussian_noise(images, np.float32([0, -0.1, 0]), labels, seed=1)", "-0.1"),
    ("ck.dropout_add_layer_norm_forward(x, x, p=0.123456789)", "0.123456789"),
    ("ck.Embedding(5, 3)(np.array([0, -1, 7]))", "-1"),
    ("ck.Embedding(5, 3)(np.array([0, 7, -1]))", "7"),
    ("ck.group_norm(x, 4)", "4"),
    ("ck.GroupNorm(4, 6)", "6"),
    ("ck.Linear(2.5, 3)", "2.5"),
    ("ck.Dropout(p='half')", "'half'"),
    ("ck.Dropout(0.5, seed=1.5)", "1.5"),
    ("ck.LayerNorm(6, eps=-1)", "-1"),
    ("train.softmax_cross_entropy(x, np.array([0, -1, 9]))", "-1"),
    ("train.binary_cross_entropy(x, x + np.float32(1.0000001))", "1.0000001"),
    ("train.softmax_cross_entropy(x, x - np.float32(0.1))", "-0.1"),
    ("train.mean_squared_error(x, x[:1])", "(1, 6)"),
    ("ck.RegularizedNetwork().fit((x[:, :2].copy(), m6[:3] + np.float32(1e-7)), None)", "1.0000001"),
    ("ck.advise(100.0000001, 60)", "100.0000001"),
    ("ck.advise('99', 60)", "'99'"),
    ("ck.advise(0.98765432, 0.6)", "0.98765432"),
    ("ck.advise(99, 60, batch_size=8.5)", "8.5"),
    ("ck.advise(history={'train_acc': [99.0], 'test_acc': [100.0123456]})", "100.0123456"),
    ("ck.advise(history={'train_acc': [99.0], 'test_acc': ['90.0000x']})", "90.0000x"),
]


@pytest.mark.parametrize(("call", "given"), GIVEN, ids=[row[0] for row in GIVEN])
def test_an_error_shows_the_value_that_came(call: str, given: str) -> None:
    images = np.linspace(0, 1, 144, dtype=np.float32).reshape(3, 3, 4, 4)
    with pytest.raises((TypeError, ValueError, IndexError)) as caught:
        eval(call, {**names(), "aug": aug, "images": images})
    assert re.search(rf"(got|found|sample|size|but|p =) .*(?<![\d.]){re.escape(given)}(?![\d.]\d)", str(caught.value))


@pytest.mark.parametrize(("call", "error", "name", "came", "wanted"), CALLS, ids=[row[0] for row in CALLS])
def test_a_bad_call_names_argument_value_and_fix(
    call: str, error: type[Exception], name: str, came: str, wanted: str
) -> None:
    with pytest.raises(error) as caught:
        eval(call, names())
    assert type(caught.value) is error
    for part in (name, came, wanted):
        assert part in str(caught.value)


# Command, and parts of its one line on stderr: the option, what came, what was needed.
COMMANDS: list[tuple[str, str, str, str]] = [
    ("demo --seeds 0", "--seeds", "'0'", "at least 1"),
    ("demo --seeds many", "--seeds", "'many'", "a whole number"),
    ("demo --epochs 1.5", "--epochs", "'1.5'", "a whole number"),
    ("demo --json /no/such/folder/file.json", "", "/no/such/folder/file.json", "No such file"),
    ("demo --colour", "", "--colour", "--help"),
    ("dmeo", "COMMAND", "'dmeo'", "choose from"),
    ("advise --train-acc 140 --test-acc 60", "train_acc", "140", "in [0, 100]"),
    ("advise --train-acc x --test-acc 60", "--train-acc", "'x'", "a number"),
    ("advise --train-acc 99", "--test-acc", "missing", "in percent, or --history FILE"),
    ("advise --train-acc 99 --test-acc 60 --model perceptron", "--model", "'perceptron'", "choose from"),
    ("advise --train-acc 99 --test-acc 60 --batch-size 0", "--batch-size", "'0'", "at least 1"),
    ("advise --history /no/such/file.csv", "", "/no/such/file.csv", "No such file"),
    ("bench --peers nonsense", "--peers", "'nonsense'", "onnxruntime"),
    ("bench --compare /no/such/file.json", "", "/no/such/file.json", "No such file"),
    ("bench --compare {file}", "", "{file}", "written by cregkit bench --json"),
    ("advise --history {file}", "", "{file}", "a training log as CSV"),
    ("lab", "NAME", "required", "--help"),
    ("lab nonsense", "experiment", "'nonsense'", "there are overfit"),
    ("lab mlp --seeds 0", "--seeds", "'0'", "at least 1"),
    ("lab mlp --epochs x", "--epochs", "'x'", "a whole number"),
    ("lab mlp --json /no/such/folder/file.json", "", "/no/such/folder/file.json", "No such file"),
    ("lab list --seeds 2", "list", "options", "name an experiment"),
    ("check --fast", "", "--fast", "--help"),
    ("info --all", "", "--all", "--help"),
]


@pytest.mark.parametrize(("command", "option", "came", "wanted"), COMMANDS, ids=[row[0] for row in COMMANDS])
def test_a_bad_command_names_option_value_and_fix(
    command: str, option: str, came: str, wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.main(command.format(file=__file__).split()) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    for part in ("cregkit", option, came.format(file=__file__), wanted):
        assert part in err


def test_the_bad_calls_and_commands_are_at_least_80_and_distinct() -> None:
    assert len({row[0] for row in CALLS} | {row[0] for row in COMMANDS}) == len(CALLS) + len(COMMANDS) >= 80
