"""Graphs for the tests of folding in ONNX: folds, refusals, and arithmetic with constants."""

BN = "BatchNormalization"
NORM = f"y = {BN}(h, s, t, m, v)"           # after a layer of 4 channels
FIRST = f"h = {BN}(x, s3, t3, m3, v3)"      # before a layer that takes 3
# name: body, keywords, targets of the folds, remaining operators
FOLDS = {
    "conv": (f"h = Conv(x, w, b) {NORM}", {}, ["Conv 'h'"], ["Conv"]),
    "conv without bias": (f"h = Conv(x, w) {NORM}", {}, ["Conv 'h'"], ["Conv"]),
    "conv, padded": (f"h = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w) y = {BN}<epsilon=0.5>(h, s, t, m, v)", {},
                     ["Conv 'h'"], ["Conv"]),
    "conv, groups": (f"h = Conv<group=2>(x, wg, b) {NORM}", {"x": "[N, 4, 8, 8]"}, ["Conv 'h'"], ["Conv"]),
    "conv and bias": (f"h = Conv(x, w, b) a = Add(h, column) y = {BN}(a, s, t, m, v)", {}, ["Conv 'h'"], ["Conv"]),
    "bias and conv": (f"h = Conv(x, w) a = Add(scalar, h) y = {BN}(a, s, t, m, v)", {}, ["Conv 'h'"], ["Conv"]),
    "transposed": (f"h = ConvTranspose<strides=[2,2]>(x, wt, b) {NORM}", {}, ["ConvTranspose 'h'"],
                   ["ConvTranspose"]),
    "transposed, groups": (f"h = ConvTranspose<group=2>(x, wtg) {NORM}", {"x": "[N, 4, 5, 5]"},
                           ["ConvTranspose 'h'"], ["ConvTranspose"]),
    "gemm": (f"h = Gemm(x, matrix, row) {NORM}", {"x": "[N, 3]"}, ["Gemm 'h'"], ["Gemm"]),
    "gemm, factors": (f"h = Gemm<alpha=0.5, beta=2.0, transB=1>(x, matrix_t, scalar) {NORM}",
                      {"x": "[N, 3]"}, ["Gemm 'h'"], ["Gemm"]),
    "gemm, transposed input": (f"h = Gemm<transA=1>(x, matrix) {NORM}", {"x": "[3, 5]"},
                               ["Gemm 'h'"], ["Gemm"]),
    "matmul": (f"h = MatMul(x, matrix) {NORM}", {"x": "[N, 3]"}, ["MatMul 'h'"], ["Gemm"]),
    "matmul and bias": (f"h = MatMul(x, matrix) a = Add(h, b) y = {BN}(a, s, t, m, v)", {"x": "[N, 3]"}, ["MatMul 'h'"],
                        ["Gemm"]),
    "two norms": (f"h = Conv(x, w) i = {BN}(h, s, t, m, v) y = {BN}(i, sother, tother, mother, vother)", {},
                  ["Conv 'h'", "Conv 'h'"], ["Conv"]),
    "norms alone": (f"r = Relu(x) h = {BN}(r, s, t, m, v) y = {BN}(h, sother, tother, mother, vother)",
                    {"x": "[N, 4, 8]"}, [None, f"{BN} 'h'"], ["Relu", BN]),
    "before conv": (f"{FIRST} y = Conv(h, w, b)", {}, ["Conv 'y'"], ["Conv"]),
    "before conv, strides": (f"{FIRST} y = Conv<strides=[2,2], auto_pad=\"VALID\">(h, w)", {},
                             ["Conv 'y'"], ["Conv"]),
    "before conv, pointwise": (f"{FIRST} y = Conv<auto_pad=\"SAME_UPPER\", strides=[2,2]>(h, w1)", {},
                               ["Conv 'y'"], ["Conv"]),
    "before padded conv, no constant": (
        f"h = {BN}(x, s, zero, zero, v) y = Conv<pads=[1,1,0,0], group=2>(h, wg)", {"x": "[N, 4, 8, 8]"}, ["Conv 'y'"],
        ["Conv"]),
    "before transposed": (f"{FIRST} y = ConvTranspose<pads=[2,2,2,2]>(h, wt)", {},
                          ["ConvTranspose 'y'"], ["ConvTranspose"]),
    "before gemm": (f"{FIRST} y = Gemm<transB=1, beta=0.5>(h, matrix_t, b)", {"x": "[N, 3]"},
                    ["Gemm 'y'"], ["Gemm"]),
    "before matmul": (f"{FIRST} y = MatMul(h, matrix)", {"x": "[N, 3]"}, ["MatMul 'y'"], ["Gemm"]),
    "two norms before conv": (
        f"h = {BN}(x, s, t, m, v) i = {BN}(h, sother, tother, mother, vother) y = Conv(i, w4)", {"x": "[N, 4, 8, 8]"},
        ["Conv 'y'", f"{BN} 'h'"], ["Conv"]),
    "between convs": (f"h = Conv(x, w) i = {BN}(h, s, t, m, v) y = Conv(i, w4)", {}, ["Conv 'h'"], ["Conv", "Conv"]),
    "shared by two convs": (
        f"h = Conv(x, w, b) i = {BN}(h, s, t, m, v) j = Conv(x, w, b) k = {BN}(j, sother, t, m, v) y = Sub(i, k)", {},
        ["Conv 'h'", "Conv 'j'"], ["Conv", "Conv", "Sub"]),
    "weight used elsewhere": (f"h = Conv(x, w) i = {BN}(h, s, t, m, v) n = ReduceMax<keepdims=0>(w) y = Mul(i, n)", {},
                              ["Conv 'h'"], ["Conv", "ReduceMax", "Mul"]),
    "constants behind nodes": (
        f"c = Identity(w) d = Transpose<perm=[0,1,3,2]>(c) o = Constant<value_floats=[1.0,2.0,3.0,4.0]>() "
        f"h = Conv(x, d) y = {BN}(h, o, t, m, o)", {}, ["Conv 'h'"], ["Conv"]),
    # Other nodes in between
    "conv, mul and add": (f"h = Conv(x, w, b) k = Mul(h, column) a = Add(k, other) y = {BN}(a, s, t, m, v)", {},
                          ["Conv 'h'"], ["Conv"]),
    "conv, sub and div": (f"h = Conv(x, w) k = Sub(column, h) a = Div(k, other) y = {BN}(a, s, t, m, v)", {},
                          ["Conv 'h'"], ["Conv"]),
    "norm, mul, norm": (f"r = Relu(x) h = {BN}(r, s, t, m, v) a = Mul(h, column) "
                        f"y = {BN}(a, sother, tother, mother, vother)", {"x": "[N, 4, 8, 8]"}, [None, f"{BN} 'h'"],
                        ["Relu", BN]),
    "matmul, identity": (f"h = MatMul(x, matrix) k = Identity(h) y = {BN}(k, s, t, m, v)", {"x": "[N, 3]"},
                         ["MatMul 'h'"], ["Gemm", "Identity"]),
    "matmul, dropout": (f"h = MatMul(x, matrix) a = Add(h, b) k = Dropout(a) y = {BN}(k, s, t, m, v)", {"x": "[N, 3]"},
                        ["MatMul 'h'"], ["Gemm", "Dropout"]),
    "dropout with a mode": (
        f"h = Conv(x, w) o = Constant<value_float=0.0>() off = Cast<to=9>(o) k = Dropout(h, o, off) {NORM}".replace(
            "(h, s,", "(k, s,"), {}, ["Conv 'h'"], ["Conv", "Constant", "Cast", "Dropout"]),
    "dropout with a mask, opset 9": (
        f"h = Conv(x, w) k, mask = Dropout<ratio=0.5>(h) y = {BN}(k, s, t, m, v)", {"opset": 9}, ["Conv 'h'"],
        ["Conv", "Dropout"]),
    "matmul, reshape": (
        f"h = MatMul(x, matrix) r = Constant<value_ints=[0,4,1,1]>() k = Reshape(h, r) y = {BN}(k, s, t, m, v)",
        {"x": "[N, 3]"}, ["MatMul 'h'"], ["Gemm", "Constant", "Reshape"]),
    "gemm, unsqueeze": (
        f"h = Gemm(x, matrix, b) r = Constant<value_ints=[2,3]>() k = Unsqueeze(h, r) y = {BN}(k, s, t, m, v)",
        {"x": "[N, 3]"}, ["Gemm 'h'"], ["Gemm", "Constant", "Unsqueeze"]),
    "gemm, reshape, mul": (
        f"h = Gemm(x, matrix, b) r = Constant<value_ints=[0,4,1,1]>() k = Reshape(h, r) a = Mul(k, column) "
        f"y = {BN}(a, s, t, m, v)", {"x": "[N, 3]"}, ["Gemm 'h'"], ["Gemm", "Constant", "Reshape"]),
    "conv, squeeze": (
        f"h = Conv(x, w1) r = Constant<value_ints=[3]>() k = Squeeze(h, r) y = {BN}(k, s, t, m, v)",
        {"x": "[N, 3, 5, 1]"}, ["Conv 'h'"], ["Conv", "Constant", "Squeeze"]),
    "conv, flatten": (f"h = Conv(x, w1) k = Flatten(h) y = {BN}(k, s, t, m, v)", {"x": "[N, 3, 1, 1]"}, ["Conv 'h'"],
                      ["Conv", "Flatten"]),
    "matmul of three axes, reshape": (
        f"h = MatMul(x, matrix) r = Constant<value_ints=[-1,4]>() k = Reshape(h, r) y = {BN}(k, s, t, m, v)",
        {"x": "[N, 5, 3]"}, ["MatMul 'h'"], ["MatMul", "Constant", "Reshape", "Add"]),
    "matmul of three axes, bias, reshape": (
        f"h = MatMul(x, matrix) a = Add(b, h) r = Constant<value_ints=[-1,4]>() k = Reshape(a, r) "
        f"y = {BN}(k, s, t, m, v)", {"x": "[N, 5, 3]"}, ["MatMul 'h'"], ["MatMul", "Constant", "Reshape", "Add"]),
    "matmul of three axes, transpose": (
        f"h = MatMul(x, matrix) k = Transpose<perm=[0,2,1]>(h) y = {BN}(k, s, t, m, v)", {"x": "[N, 5, 3]"},
        ["MatMul 'h'"], ["MatMul", "Transpose", "Add"]),
    "conv in other order": (
        f"h = Conv(x, w1) k = Transpose<perm=[0,1,3,2]>(h) y = {BN}(k, s, t, m, v)", {"x": "[N, 3, 4, 5]"},
        ["Conv 'h'"], ["Conv", "Transpose"]),
    # Several layers after a batch norm
    "before two convs": (f"{FIRST} i = Conv(h, w) j = Conv<strides=[2,2]>(h, w1) k = ReduceMax(j) y = Add(i, k)", {},
                         ["Conv 'i', Conv 'j'"], ["Conv", "Conv", "ReduceMax", "Add"]),
    "before two convs with one weight": (f"{FIRST} i = Conv(h, w, b) j = Conv(h, w) k = Relu(i) "
                                         "y = Sub(k, j)",
                                         {}, ["Conv 'i', Conv 'j'"], ["Conv", "Conv", "Relu", "Sub"]),
    "before matmul and gemm": (f"{FIRST} i = MatMul(h, matrix) j = Gemm(h, matrix, b) k = Mul(i, j) y = Add(k, i)",
                               {"x": "[N, 3]"}, ["MatMul 'i', Gemm 'j'"], ["Gemm", "Gemm", "Mul", "Add"]),
    "norm is the output": (f"h = Conv(x, w) {NORM} z = Relu(y)", {"outputs": "y z"}, ["Conv 'h'"],
                           ["Conv", "Relu"]),
    "double": (f"h = Gemm(x, matrix, b) {NORM}", {"dtype": "double", "x": "[N, 3]"}, ["Gemm 'h'"], ["Gemm"]),
    **{f"opset {opset}": (f"h = Conv(x, w, b) y = {BN}<momentum=0.5>(h, s, t, m, v)", {"opset": opset}, ["Conv 'h'"],
                          ["Conv"]) for opset in (7, 8, 9, 13, 14, 15, 20, 22)},
    "opset 7, spatial": (f"h = Conv(x, w, b) y = {BN}<spatial=1>(h, s, t, m, v)", {"opset": 7}, ["Conv 'h'"], ["Conv"]),
    "opset 7, gemm": (f"h = Gemm(x, matrix, b) {NORM}", {"opset": 7, "x": "[N, 3]"}, ["Gemm 'h'"],
                      ["Gemm"]),
    "opset 8, before matmul": (f"{FIRST} y = MatMul(h, matrix)", {"opset": 8, "x": "[N, 3]"},
                               ["MatMul 'y'"], ["Gemm"]),
    "IR 3, where initializers are inputs": (f"h = Conv(x, w) {NORM}", {"ir": 3, "opset": 8},
                                            ["Conv 'h'"], ["Conv"]),
}

IF = ("flag = Greater(top, scalar) {0} = If<then_branch = then () => (float i) {{ i = {1} }}, "
      "else_branch = otherwise () => (float j) {{ j = Neg(h) }}>(flag) ")

# name: body, keywords, the reason
LEFT = {
    "training mode": (f"h = Conv(x, w) y, p, q = {BN}<training_mode=1>(h, s, t, m, v)", {},
                      "it has outputs of training$"),
    "training mode, one output": (f"h = Conv(x, w) y = {BN}<training_mode=1>(h, s, t, m, v)", {},
                                  "its training_mode is 1$"),
    "training outputs, opset 9": (f"h = Conv(x, w) y, p, q, r, e = {BN}(h, s, t, m, v)", {"opset": 9},
                                  "it has outputs of training$"),
    "spatial": (f"h = Conv(x, w) y = {BN}<spatial=0>(h, s, t, m, v)", {"opset": 7}, "its spatial is 0"),
    "opset 6": (f"h = Conv(x, w) y = {BN}<is_test=1>(h, s, t, m, v)", {"opset": 6}, "opset 6; expected 7 or newer$"),
    "negative variance": (f"h = Conv(x, w) y = {BN}(h, s, t, m, negative)", {},
                          "variance has negative values, down to -"),
    "no variance, no epsilon": (f"h = Conv(x, w) y = {BN}<epsilon=0.0>(h, s, t, m, zero)", {},
                                "^its variance is 0 in channels 0, 1, 2, 3 and its epsilon is 0"),
    **{f"{name} is NaN": (f"h = Conv(x, w) y = {BN}(h, {inputs})", {},
                          f"do not normalize: {name} has values that are not finite, in channel 2$")
       for name, inputs in (("scale", "nan, t, m, v"), ("B", "s, nan, m, v"), ("mean", "s, t, nan, v"),
                            ("var", "s, t, m, nan"))},
    "scale not constant": (f"h = Conv(x, w) g = ReduceMean<axes=[0,2,3], keepdims=0>(h) y = {BN}(h, g, t, m, v)", {},
                           f"^the scale of {BN} 'y' is not a constant$"),
    "mean of an input": (f"h = Conv(x, w) {NORM}", {"defaults": ("m",)},
                         f"^the mean of {BN} 'y' is only the default of an input$"),
    "weight of an input": (f"h = Conv(x, w) {NORM}", {"defaults": ("w",)},
                           "^the weight of Conv 'h' is only the default of an input; its output is an output of"),
    "weight not constant": (f"u = Mul(w, scalar) h = Conv(x, u) {NORM}", {},
                            "^the weight of Conv 'h' is not a constant; "),
    "bias not constant": (f"u = Mul(b, scalar) h = Conv(x, w, u) {NORM}", {},
                          "^the bias of Conv 'h' is not a constant; "),
    "other user": (f"h = Conv(x, w) i = {BN}(h, s, t, m, v) y = Add(h, i)", {},
                   "^the output of Conv 'h' before it is used 2 times; its output goes to Add 'y'$"),
    "intermediate is an output": (f"h = Conv(x, w) {NORM}", {"outputs": "y h"},
                                  "^the output of Conv 'h' before it is an output of the graph; "),
    "used in a subgraph": (f"h = Conv(x, w) top = ReduceMax<keepdims=0>(x) i = {BN}(h, s, t, m, v) "
                           + IF.format("k", "Relu(h)") + "y = Add(i, k)", {},
                           "^the output of Conv 'h' before it is used in a subgraph; "),
    "in a subgraph": ("h = Conv(x, w) top = ReduceMax<keepdims=0>(x) " + IF.format("y", f"{BN}(h, s, t, m, v)"), {},
                      "^it is in a subgraph of If 'y'$"),
    "input of the graph": (f"{FIRST} y = Relu(h)", {},
                           "^its input is not the output of a node; its output goes to Relu 'y'$"),
    "after relu": (f"h = Relu(x) y = {BN}(h, s3, t3, m3, v3)", {},
                   "^its input comes from Relu 'h'; its output is an output of the graph$"),
    "one of two users is no layer": (f"{FIRST} i = Conv(h, w) j = Relu(h) k = ReduceMax(j) y = Add(i, k)", {},
                                     "; its output goes to Relu 'j'$"),
    "one of two users is padded": (f"{FIRST} i = Conv<pads=[1,1,1,1]>(h, w) j = Conv<pads=[1,1,1,1]>(h, w1) "
                                   "k = Conv(h, w) l = ReduceMax(k) m0 = ReduceMax(j) n = Add(l, m0) y = Add(i, n)", {},
                                   "pads with zeros after the batch norm"),
    "as input and as weight": (f"h = {BN}(x, s, t, m, v) y = MatMul(h, h)", {"x": "[4, 4]"},
                               "; its output goes to MatMul 'y'$"),
    "output in a subgraph": ("top = ReduceMax<keepdims=0>(x) " f"{FIRST} "
                             + IF.format("y", "Relu(h)"), {}, "; its output is used in a subgraph$"),
    "before padded conv": (f"{FIRST} y = Conv<pads=[0,1,0,0]>(h, w)", {},
                           "pads with zeros after the batch norm, .* in channels 0, 1, 2, so that"),
    "before padded conv, SAME": (f"{FIRST} y = Conv<auto_pad=\"SAME_LOWER\">(h, w)", {},
                                 "pads with zeros after the batch norm"),
    "before transposed": (f"{FIRST} y = ConvTranspose(h, wt)", {}, "some outputs fewer taps"),
    "before transposed, one end": (f"{FIRST} y = ConvTranspose<pads=[2,2,2,1]>(h, wt)", {},
                                   "some outputs fewer taps"),
    "before transposed, output shape": (
        f"{FIRST} y = ConvTranspose<output_shape=[8,8]>(h, wt)", {}, "some outputs fewer taps"),
    "before transposed, stride": (f"{FIRST} y = ConvTranspose<strides=[1,2]>(h, wt1)", {},
                                  "some outputs fewer taps"),
    "before gemm, transposed input": (f"h = {BN}(x, s, t, m, v) y = Gemm<transA=1>(h, matrix4)",
                                      {"x": "[4, 4]"}, "; Gemm 'y' transposes its input$"),
    "as a weight": (f"h = {BN}(x, s, t, m, v) y = MatMul(many, h)", {"x": "[4, 4]"},
                    "; its output goes to MatMul 'y'$"),
    "matmul of three axes": (f"h = MatMul(x, matrix) {NORM}", {"x": "[N, 4, 3]"},
                             "^the channels of MatMul 'h' are on axis 2; expected axis 1; "),
    "matmul of an unknown number of axes": (
        f"u = Identity(x) h = MatMul(u, matrix) {NORM}", {"x": "[]"}, "^the input of MatMul 'h' is not known to"),
    # Reshapes, Dropout and Transpose in between
    "reshape that takes channels apart": (
        f"h = Gemm(x, matrix, b) r = Constant<value_ints=[-1,2,2]>() k = Reshape(h, r) y = {BN}(k, s2, t2, m2, v2)",
        {"x": "[N, 3]"}, "^its input comes from Reshape 'k', which splits or joins the channels; "),
    "reshape that joins channels": (
        f"h = Conv(x, w1) k = Flatten(h) y = {BN}(k, s16, t16, m16, v16)", {"x": "[N, 3, 2, 2]"},
        "^its input comes from Flatten 'k', which splits or joins the channels; "),
    "reshape that mixes the channels": (
        f"h = MatMul(x, matrix) r = Constant<value_ints=[0,4,5]>() k = Reshape(h, r) y = {BN}(k, s, t, m, v)",
        {"x": "[N, 5, 3]"}, "^its input comes from Reshape 'k', which splits or joins the channels; "),
    "reshape of an open length": (
        f"h = MatMul(x, matrix) r = Constant<value_ints=[0,4,-1]>() k = Reshape(h, r) y = {BN}(k, s, t, m, v)",
        {"x": "[N, T, 3]"}, "^the shapes before and after Reshape 'k' are not known; "),
    "reshape of unknown shapes": (
        f"h = Conv(x, w) r = Constant<value_ints=[0,4,-1]>() k = Reshape(h, r) y = {BN}(k, s, t, m, v)",
        {"x": "[N, 3, H, W]"}, "^the shapes before and after Reshape 'k' are not known; "),
    "transpose of the channels": (
        f"h = Conv(x, w1) k = Transpose<perm=[0,2,1,3]>(h) y = {BN}(k, s, t, m, v)", {"x": "[N, 3, 4, 4]"},
        "^the channels of Conv 'h' are on axis 1; expected axis 2; "),
    "dropout in training": (
        f"h = Conv(x, w) o = Constant<value_float=0.5>() on = Cast<to=9>(o) k = Dropout(h, o, on) "
        f"y = {BN}(k, s, t, m, v)",
        {}, "^its input comes from Dropout 'k', which is, or may be, in training mode; "),
    "dropout whose mode is computed": (
        f"h = Conv(x, w) o = Constant<value_float=0.5>() top = ReduceMax<keepdims=0>(x) on = Greater(top, o) "
        f"k = Dropout(h, o, on) y = {BN}(k, s, t, m, v)", {},
        "^its input comes from Dropout 'k', which is, or may be, in training mode; "),
    "value before a dropout used elsewhere": (
        f"h = Conv(x, w) k = Dropout(h) i = {BN}(k, s, t, m, v) y = Add(h, i)", {},
        "^the output of Conv 'h' before it is used 2 times; "),
    "value behind an identity is an output": (
        f"h = Conv(x, w) k = Identity(h) {NORM.replace('(h', '(k')}", {"outputs": "y k"},
        "^the output of Identity 'k' before it is an output of the graph; "),
    "divided by the layer": (f"h = Conv(x, w) k = Div(scalar, h) y = {BN}(k, s, t, m, v)", {},
                             "^its input comes from Div 'k', which divides by it; "),
    "divided by zero": (f"h = Conv(x, w) z = Sub(scalar, scalar) k = Div(h, zero4) y = {BN}(k, s, t, m, v)", {},
                        "^its input comes from Div 'k', which divides by zero; "),
    "product of two": (f"h = Conv(x, w) k = Conv(x, w) a = Mul(h, k) y = {BN}(a, s, t, m, v)", {},
                       "^its input comes from Mul 'a', which does not multiply by a constant; "),
    "factor by position": (f"h = Conv(x, w1) a = Mul(h, grid) y = {BN}(a, s, t, m, v)", {"x": "[N, 3, 2, 2]"},
                           r"^the constant of Mul 'a' has shape \(2, 2\); expected one value for each of 4 channels"),
    "before matmul of three axes": (f"h = {BN}(x, s, t, m, v) y = MatMul(h, matrix4)", {"x": "[N, 4, 4]"},
                                    "; the input of MatMul 'y' is not known to have 2 axes$"),
    "matrix from the left": (f"h = MatMul(many, x) {NORM}", {"x": "[4, 4]"},
                             "^the weight of MatMul 'h' is not a constant; "),
    "bias by row": (f"h = Gemm(x, matrix) a = Add(h, many) y = {BN}(a, s, t, m, v)", {"x": "[2, 3]"},
                    r"^the constant of Add 'a' has shape \(2, 4\); expected one value for each of 4 channels"),
    "bias of gemm by row": (f"h = Gemm(x, matrix, many) {NORM}", {"x": "[2, 3]"},
                            r"^the bias of Gemm 'h' has shape \(2, 4\); expected"),
    "sum of two": (f"h = Conv(x, w) k = Conv(x, w) a = Add(h, k) y = {BN}(a, s, t, m, v)", {},
                   "^its input comes from Add 'a', which does not add a constant; "),
    "add after relu": (f"h = Conv(x, w) k = Relu(h) a = Add(k, column) y = {BN}(a, s, t, m, v)", {},
                       "^its input comes from Relu 'k'; "),
}


# name: body, keywords, targets of the folds of batch norms and of arithmetic, remaining operators
CONSTANTS = {
    "mul and add behind conv": ("h = Conv(x, w) a = Mul(h, column) y = Add(a, other)", {}, [], ["Conv 'h'"] * 2,
                                ["Conv"]),
    "sub and div behind conv": ("h = Conv(x, w, b) a = Div(h, column) y = Sub(a, other)", {}, [], ["Conv 'h'"] * 2,
                                ["Conv"]),
    "sub from a constant": ("h = Conv(x, w, b) y = Sub(column, h)", {}, [], ["Conv 'h'"], ["Conv"]),
    "scalar behind transposed": ("h = ConvTranspose<group=2>(x, wtg) y = Mul(scalar, h)", {"x": "[N, 4, 5, 5]"}, [],
                                 ["ConvTranspose 'h'"], ["ConvTranspose"]),
    "behind gemm": ("h = Gemm(x, matrix, b) y = Mul(h, b)", {"x": "[N, 3]"}, [], ["Gemm 'h'"], ["Gemm"]),
    "behind a norm": (f"r = Relu(x) h = {BN}(r, s, t, m, v) a = Mul(h, column) y = Add(a, other)",
                      {"x": "[N, 4, 8, 8]"}, [None], [f"{BN} 'h'"] * 2, ["Relu", BN]),
    "behind a norm behind conv": (f"h = Conv(x, w) i = {BN}(h, s, t, m, v) a = Mul(i, column) y = Add(a, other)", {},
                                  ["Conv 'h'"], ["Conv 'h'"] * 2, ["Conv"]),
    "behind a norm before conv": (
        f"h = {BN}(x, s, t, m, v) a = Mul(h, column) i = Add(other, a) y = Conv(i, w4)", {"x": "[N, 4, 8, 8]"},
        ["Conv 'y'"], [f"{BN} 'h'"] * 2, ["Conv"]),
    "through identity and dropout": ("h = Conv(x, w) i = Identity(h) d = Dropout(i) y = Mul(d, column)", {}, [],
                                     ["Conv 'h'"], ["Conv", "Identity", "Dropout"]),
    "by unsqueezed constants": (
        "h = Conv(x, w) u = Constant<value_ints=[1,2]>() c = Unsqueeze(b, u) y = Mul(h, c)", {}, [], ["Conv 'h'"],
        ["Conv"]),
    # These are left.
    "by position": ("h = Conv(x, w1) y = Mul(h, grid)", {"x": "[N, 3, 2, 2]"}, [], [], ["Conv", "Mul"]),
    "along the last axis": ("h = Conv(x, w1) y = Add(h, b)", {"x": "[N, 3, 4, 4]"}, [], [], ["Conv", "Add"]),
    "conv used elsewhere": ("h = Conv(x, w) a = Mul(h, column) y = Add(a, h)", {}, [], [], ["Conv", "Mul", "Add"]),
    "conv is an output": ("h = Conv(x, w) y = Mul(h, column)", {"outputs": "y h"}, [], [], ["Conv", "Mul"]),
    "of two values": ("h = Conv(x, w) k = Relu(x) r = ReduceMax(k) y = Mul(h, r)", {}, [], [],
                      ["Conv", "Relu", "ReduceMax", "Mul"]),
    "behind relu": ("h = Conv(x, w) k = Relu(h) y = Mul(k, column)", {}, [], [], ["Conv", "Relu", "Mul"]),
    "power of a conv": ("h = Conv(x, w) y = Div(column, h)", {}, [], [], ["Conv", "Div"]),
    "dropout in training": (
        "h = Conv(x, w) o = Constant<value_float=0.0>() e = Constant<value_float=1.0>() on = Cast<to=9>(e) "
        "d = Dropout(h, o, on) y = Mul(d, column)", {}, [], [],
        ["Conv", "Constant", "Constant", "Cast", "Dropout", "Mul"]),
    "default of an input": ("h = Conv(x, w) y = Mul(h, column)", {"defaults": ("column",)}, [], [], ["Conv", "Mul"]),
    "not finite": ("h = Conv(x, w) r = ReduceMax(x) z = Mul(h, infinity) c = Min(z, r) y = Add(c, x1)", {}, [], [],
                   ["Conv", "ReduceMax", "Mul", "Min", "Add"]),
}
