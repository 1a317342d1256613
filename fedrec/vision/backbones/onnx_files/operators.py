"""The operators that a network from a file may use, all of ONNX's standard domain.

None of them is random, keeps state between calls, holds a graph of its own, or has an output whose shape
depends on values, unless one of its inputs names the shape: :data:`SHAPE_INPUTS` lists those inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_ELEMENTWISE: Final = """
Abs Acos Acosh Add And Asin Asinh Atan Atanh Cast CastLike Ceil Celu Clip Cos Cosh Div Elu Equal Erf Exp Floor
Gelu Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean
Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus
Softsign Sqrt Sub Sum SwiGLU Swish Tan Tanh ThresholdedRelu Where Xor
"""
_PRODUCTS: Final = """
Attention Conv ConvInteger ConvTranspose Einsum Gemm MatMul MatMulInteger QLinearConv QLinearMatMul
RotaryEmbedding DequantizeLinear DynamicQuantizeLinear QuantizeLinear
"""
_NORMS: Final = """
BatchNormalization GroupNormalization Hardmax InstanceNormalization LRN LayerNormalization LogSoftmax
LpNormalization MeanVarianceNormalization RMSNormalization Softmax
"""
_POOLS: Final = """
ArgMax ArgMin AveragePool CumSum GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool MaxPool TopK
"""
_REDUCTIONS: Final = """
ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
ReduceSumSquare
"""
_SHAPES: Final = """
Concat Constant ConstantOfShape DepthToSpace Dropout Expand EyeLike Flatten Gather GatherElements GatherND
GridSample OneHot Pad Range Reshape Resize ScatterElements ScatterND Shape Size Slice SpaceToDepth Split
Squeeze Tile Transpose Trilu Unsqueeze Upsample
"""

OPERATORS: Final = frozenset(
    " ".join((_ELEMENTWISE, _PRODUCTS, _NORMS, _POOLS, _REDUCTIONS, _SHAPES)).split()
)
"""Names of the operators."""

SHAPE_INPUTS: Final[Mapping[str, tuple[int, ...]]] = {
    "ConstantOfShape": (0,),
    "CumSum": (1,),
    "Expand": (1,),
    "OneHot": (1,),
    "Pad": (1, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Trilu": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
} | dict.fromkeys(_REDUCTIONS.split(), (1,))
"""Positions of the inputs that determine an output's shape or which part of the data is used."""

SHAPE_READERS: Final = frozenset({"Shape", "Size"})
"""Operators whose output depends on their input's shape alone."""

TRAINING_INPUTS: Final[Mapping[str, int]] = {"Dropout": 2}
"""Position of an input that would make the operator random."""
TRAINING_ATTRIBUTE: Final = "training_mode"
"""Attribute of ``BatchNormalization`` that would make it use the statistics of the batch."""
