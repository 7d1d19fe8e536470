# The elementwise passes as the schedule calls them.
#
# A forward goes straight from array to array. With an activation other than ReLU it goes in pieces that stay in the
# first-level cache: in y itself, or through a local array if y has halves, gaps, or is stored around the caches. The
# pass before a backward that turns the gradient behind such an activation into the one before it goes in pieces too.


cdef inline Py_ssize_t piece_of(Py_ssize_t length) noexcept nogil:
    # Elements of a run that a piece takes; a whole run if several fit, so that small planes go together.
    return length if length <= STAGE else STAGE


cdef void forward_runs(bint spread, const Job* job, ForwardRuns a, Coefs coefs, const real* kind) noexcept nogil:
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
    cdef bint direct = not is_half(mode.type) and not mode.stream
    cdef bint packed = direct and a.length <= STAGE and a.y.step == a.length * size
    if job.activation <= RELU:
        affine(spread, mode, a, coefs, kind)
        return
    stage.type = FLOAT32 if real is float else FLOAT64
    stage.stream = False
    stage.four = False
    stage.relu = False
    stage.keep = False
    # Many runs at once leave few partial steps of an activation.
    together = (4 * STAGE if packed else STAGE) // piece_of(a.length)
    while i < a.runs:
        w = 0
        k = least(a.runs - i, together)
        while w < a.length:
            width = least(piece_of(a.length), a.length - w)
            here = forward_at(forward_next(a, i), w * size, 0)
            piece = here
            piece.runs = k
            piece.length = width
            loaded = load_runs(mode.type, here.x, k, width, x_room, &step, kind)
            piece.x = Runs(<char*> loaded, step * <Py_ssize_t> sizeof(real))
            piece.residual = piece.x
            if mode.residual:
                loaded = load_runs(mode.type, here.residual, k, width, r_room, &step, kind)
                piece.residual = Runs(<char*> loaded, step * <Py_ssize_t> sizeof(real))
            t = room
            if direct and (k == 1 or packed):
                t = <real*> here.y.p
            piece.y = Runs(<char*> t, width * <Py_ssize_t> sizeof(real))
            affine(spread, stage, piece, coefs_from(coefs, w if spread else i, kind), kind)
            activate(job.activation, <real> job.slope, t, k * width, <const real*> (here.x.p + k * width * size))
            if t == room:
                store_runs(mode.type, mode.stream, <const real*> t, here.y, k, width)
            w += width
        i += k


cdef void derive_runs(bint spread, const Job* job, GradientRuns a, Coefs coefs, const real* kind) noexcept nogil:
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
    while i < a.runs:
        w = 0
        k = least(a.runs - i, together)
        while w < a.length:
            width = least(piece_of(a.length), a.length - w)
            here = gradient_at(gradient_next(a, i), w * size, 0)
            piece.runs = k
            piece.length = width
            loaded = load_runs(job.type, here.x, k, width, x_room, &step, kind)
            piece.x = Runs(<char*> loaded, step * <Py_ssize_t> sizeof(real))
            piece.residual = piece.x
            piece.y = Runs(<char*> &room[0], width * <Py_ssize_t> sizeof(real))
            piece.bits = here.bits
            affine(spread, stage, piece, coefs_from(coefs, w if spread else i, kind), kind)
            loaded = load_runs(job.type, here.dy, k, width, dy_room, &step, kind)
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
