# The elementwise passes as the schedule calls them.
#
# A forward goes straight from array to array. With an activation other than ReLU it goes in pieces that stay in the
# first-level cache: in y itself, or through a local array if y has halves, gaps, or is stored around the caches. The
# pass before a backward that turns the gradient behind such an activation into the one before it goes in pieces too.
# Layer norm goes in pieces with a residual and with ReLU as well: its own pass has neither (layer.pxi).

cdef enum:                  # to which the constants of a transform belong
    PLANE_CONSTANTS = 0     # one of each per run
    COLUMN_CONSTANTS = 1    # one of each per element of a run
    ROW_CONSTANTS = 2       # layer norm: statistics per run, parameters per element


cdef inline Py_ssize_t piece_of(Py_ssize_t length) noexcept nogil:
    # Elements of a run that a piece takes; a whole run if several fit, so that small planes go together.
    return length if length <= STAGE else STAGE


cdef inline Coefs coefs_of(int of, Coefs coefs, Py_ssize_t run, Py_ssize_t column, const real* rows) noexcept nogil:
    # Of a piece that begins there.
    return coefs_from(coefs, run if of == PLANE_CONSTANTS else column, rows)


cdef inline const real* rows_from(int of, const real* rows, Py_ssize_t run) noexcept nogil:
    return rows + run if of == ROW_CONSTANTS else rows


cdef void add_residual(
    Mode mode,                                          # of FLOAT32 or FLOAT64
    ForwardRuns a,                                      # y is IN too
    const real* kind,
) noexcept nogil:
    # y += residual, then ReLU: what affine_block() does, to a piece that has been transformed.
    cdef real* y
    cdef const real* r
    cdef unsigned int word
    cdef Py_ssize_t i, w, j
    for i in range(a.runs):
        y = <real*> (a.y.p + i * a.y.step)
        r = <const real*> (a.residual.p + i * a.residual.step)
        if mode.residual:
            for j in range(a.length):
                y[j] = y[j] + r[j]
        if mode.keep:
            for w in range(parts(a.length, LANES)):
                word = 0
                for j in range(least(LANES, a.length - w * LANES)):
                    word |= <unsigned int> (0 if y[w * LANES + j] <= 0 else 1) << j
                a.bits.p[i * a.bits.step + w] = <uint16_t> word
        if mode.relu:
            for j in range(a.length):
                y[j] = rectified_if(True, y[j])


cdef inline void transform(
    int of, const Job* job, Mode mode, ForwardRuns a, Coefs coefs, const real* rows,
) noexcept nogil:
    # From x to the argument of the activation. The ReLU of layer norm is part of it.
    if of == ROW_CONSTANTS:
        layer(LayerMode(mode.type, job.from_zero, job.gamma != NULL, job.beta != NULL, mode.stream), a, coefs, rows)
        if mode.residual or mode.relu:
            add_residual(mode, a, rows)
    else:
        affine(of == COLUMN_CONSTANTS, mode, a, coefs, rows)


cdef void forward_runs(
    int of, const Job* job, ForwardRuns a, Coefs coefs,
    const real* rows,                                   # IN  (ROW_COEFS, ROWS_ABREAST) of layer norm
) noexcept nogil:
    cdef float x_room[STAGE + PADDING]
    cdef float r_room[STAGE + PADDING]
    cdef real room[STAGE + PADDING]
    cdef real* t
    cdef const real* loaded
    cdef ForwardRuns here, piece
    cdef Py_ssize_t step, i = 0, w, k, width, together
    cdef Py_ssize_t size = job.itemsize
    cdef Mode mode = mode_of(job)
    cdef Mode stage = mode
    cdef bint direct = not is_half(mode.type) and not mode.stream and (of != ROW_CONSTANTS or a.y.p != a.residual.p)
    cdef bint packed = direct and a.length <= STAGE and a.y.step == a.length * size
    if job.activation <= RELU and not (of == ROW_CONSTANTS and (mode.residual or mode.relu)):
        transform(of, job, mode, a, coefs, rows)
        return
    stage.type = FLOAT32 if real is float else FLOAT64
    stage.stream = False
    stage.four = False
    # Many runs at once leave few partial steps of an activation.
    together = (4 * STAGE if packed else STAGE) // piece_of(a.length)
    while i < a.runs:
        w = 0
        k = least(a.runs - i, together)
        while w < a.length:
            width = least(piece_of(a.length), a.length - w)
            here = forward_at(forward_next(a, i), w * size, w // LANES)
            piece = here
            piece.runs = k
            piece.length = width
            loaded = load_runs(mode.type, here.x, k, width, x_room, &step, rows)
            piece.x = Runs(<char*> loaded, step * <Py_ssize_t> sizeof(real))
            piece.residual = piece.x
            if mode.residual:
                loaded = load_runs(mode.type, here.residual, k, width, r_room, &step, rows)
                piece.residual = Runs(<char*> loaded, step * <Py_ssize_t> sizeof(real))
            t = room
            if direct and (k == 1 or packed):
                t = <real*> here.y.p
            piece.y = Runs(<char*> t, width * <Py_ssize_t> sizeof(real))
            transform(of, job, stage, piece, coefs_of(of, coefs, i, w, rows), rows_from(of, rows, i))
            activate(job.activation, <real> job.slope, t, k * width, <const real*> (here.x.p + k * width * size))
            if t == room:
                store_runs(mode.type, mode.stream, <const real*> t, here.y, k, width)
            w += width
        i += k


cdef void derive_runs(int of, const Job* job, GradientRuns a, Coefs coefs, const real* rows) noexcept nogil:
    # dx = dy times the derivative of the activation at the transform of x. dx may be dy.
    cdef float x_room[STAGE + PADDING]
    cdef float dy_room[STAGE + PADDING]
    cdef real packed[STAGE + PADDING]
    cdef real room[STAGE + PADDING]
    cdef const real* loaded
    cdef GradientRuns here
    cdef ForwardRuns piece
    cdef Mode stage = mode_of(job)
    cdef Py_ssize_t step, i = 0, r, w, k, width, j, size = job.itemsize
    cdef Py_ssize_t together = STAGE // piece_of(a.length)
    stage.type = FLOAT32 if real is float else FLOAT64
    stage.stream = False
    stage.four = False
    stage.relu = False
    while i < a.runs:
        w = 0
        k = least(a.runs - i, together)
        while w < a.length:
            width = least(piece_of(a.length), a.length - w)
            here = gradient_at(gradient_next(a, i), w * size, 0)
            piece.runs = k
            piece.length = width
            loaded = load_runs(job.type, here.x, k, width, x_room, &step, rows)
            piece.x = Runs(<char*> loaded, step * <Py_ssize_t> sizeof(real))
            piece.residual = piece.x
            piece.y = Runs(<char*> &room[0], width * <Py_ssize_t> sizeof(real))
            piece.bits = here.bits
            transform(of, job, stage, piece, coefs_of(of, coefs, i, w, rows), rows_from(of, rows, i))
            loaded = load_runs(job.type, here.dy, k, width, dy_room, &step, rows)
            if k > 1 and step != width:
                for r in range(k):
                    for j in range(width):
                        packed[r * width + j] = loaded[r * step + j]
                loaded = packed
            derive(job.activation, <real> job.slope, loaded, room, k * width,
                   <const real*> (here.x.p + k * width * size))
            store_runs(job.type, False, <const real*> room, here.dx, k, width)
            w += width
        i += k


cdef void open_runs(const Job* job, GradientRuns a, const real* kind) noexcept nogil:
    # dx = dy where the ReLU was open, or everywhere without bits.
    cdef float room[STAGE + PADDING]
    cdef real gated[STAGE + PADDING]
    cdef const real* dy
    cdef GradientRuns here
    cdef Py_ssize_t i, w, j, width, step
    for i in range(a.runs):
        w = 0
        while w < a.length:
            width = least(STAGE, a.length - w)
            here = gradient_at(gradient_next(a, i), w * job.itemsize, w // LANES)
            dy = load_runs(job.type, here.dy, 1, width, room, &step, kind)
            if job.bits != NULL:
                for j in range(width):
                    gated[j] = opened_bit(dy[j], here.bits.p[j // LANES], j % LANES)
                dy = gated
            store_runs(job.type, False, dy, here.dx, 1, width)
            w += width
