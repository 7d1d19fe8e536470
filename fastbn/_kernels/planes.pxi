# `planes`: (N, C, S), a channel is N runs of S contiguous elements.
#
# a) A channel's elements are cut into spans: SPAN elements of one plane, or as many whole planes as SPAN holds. A span
#    is reduced chunk by chunk, in order; the spans of a channel are merged in order. All of it follows from the shape.
# b) A group of channels whose data stay in the cache is reduced and then transformed at once, last image first, so the
#    data come from memory once. The size of a group decides when a channel is done, not how.
# c) `group` is 0 with too few channels for the threads, spans are the units, and a phase each reduces, merges and
#    transforms.

cdef enum:
    CHUNK = 512         # elements whose lanes are summed in `lane` before they go to double
    RUNS = 8            # planes, likewise
    SPAN = 32768        # elements of a span; a multiple of CHUNK


cdef void plan_planes(Job* job, Py_ssize_t itemsize, Py_ssize_t cache, int threads) noexcept nogil:
    cdef Py_ssize_t channel_bytes = job.n * job.s * itemsize * (2 if job.g.p != NULL else 1)
    job.pieces = parts(job.s, SPAN)
    job.span_images = 1 if job.pieces > 1 else least(job.n, SPAN // job.s)
    job.spans = parts(job.n, job.span_images) * job.pieces
    if job.c < 2 * threads and job.spans > 1:
        job.group = 0
    else:
        job.group = cache // channel_bytes if cache > channel_bytes else 1
        # as many groups for one thread as for another
        job.group = parts(job.c, parts(parts(job.c, job.group), threads) * threads)
    job.runs = least(RUNS, CHUNK // job.s if job.s < CHUNK else 1)
    job.apply_planes = 1 if job.pieces > 1 else SPAN // job.s
    job.repeats = 1
    job.coef_step = job.c


cdef inline Py_ssize_t bits_of(Job* job, Py_ssize_t n, Py_ssize_t c) noexcept nogil:
    return (n * job.c + c) * parts(job.s, TILE)


cdef inline Moments chunk_moments_of(
    Job* job, const real* x, Py_ssize_t runs, Py_ssize_t length,
) noexcept nogil:
    if real is float:
        if not job.exact and runs * length > FEW:
            if runs == 1 and length <= TILE:
                return short_moments(x, <int> length, <float> 0)
            return chunk_moments(x, runs, length, job.x.step_n, <float> 0)
    return chunk_moments(x, runs, length, job.x.step_n, <double> 0)


cdef void reduce_chunk(
    Job* job, const real* kind, Py_ssize_t c, Py_ssize_t n, Py_ssize_t i, Py_ssize_t runs, Py_ssize_t length,
    Moments* moments, double* sums,
) noexcept nogil:
    cdef const real* x = <const real*> job.x.p + n * job.x.step_n + c * job.x.step_c + i
    cdef const real* coef = <const real*> job.coef + c
    cdef const uint64_t* bits = NULL
    if job.g.p == NULL:
        merge(moments, chunk_moments_of(job, x, runs, length))
        return
    if job.bits != NULL:
        bits = job.bits + bits_of(job, n, c) + i // TILE
    if real is float:
        chunk_gradient_sums(<const real*> job.g.p + n * job.g.step_n + c * job.g.step_c + i, job.g.step_n,
                            x, job.x.step_n, bits, job.c * parts(job.s, TILE), runs, length,
                            coef[SUBTRACT * job.coef_step], coef[SCALE * job.coef_step],
                            coef[SHIFT * job.coef_step], job.gate, sums, <float> 0)
    else:
        chunk_gradient_sums(<const real*> job.g.p + n * job.g.step_n + c * job.g.step_c + i, job.g.step_n,
                            x, job.x.step_n, bits, job.c * parts(job.s, TILE), runs, length,
                            coef[SUBTRACT * job.coef_step], coef[SCALE * job.coef_step],
                            coef[SHIFT * job.coef_step], job.gate, sums, <double> 0)


cdef void reduce_span(
    Job* job, const real* kind, Py_ssize_t c, Py_ssize_t u, Moments* moments, double* sums,
) noexcept nogil:
    # One of the two results is added to: moments in a forward, sums in a backward.
    cdef Py_ssize_t image = u if job.pieces == 1 else u // job.pieces
    cdef Py_ssize_t n = image * job.span_images
    cdef Py_ssize_t stop = least(n + job.span_images, job.n)
    cdef Py_ssize_t first = (u - image * job.pieces) * SPAN
    cdef Py_ssize_t last = least(first + SPAN, job.s)
    cdef Py_ssize_t i
    while n < stop:
        if job.s >= CHUNK:
            i = first
            while i < last:
                reduce_chunk(job, kind, c, n, i, 1, least(CHUNK, last - i), moments, sums)
                i += CHUNK
        else:
            reduce_chunk(job, kind, c, n, 0, least(job.runs, stop - n), job.s, moments, sums)
        n += job.runs


cdef inline void transform_run(
    Job* job, const real* kind, Py_ssize_t n, Py_ssize_t c, Py_ssize_t i, Py_ssize_t length,
) noexcept nogil:
    # The elementwise pass over a piece of one plane.
    cdef const real* x = <const real*> job.x.p + n * job.x.step_n + c * job.x.step_c + i
    cdef real* y = <real*> job.y.p + n * job.y.step_n + c * job.y.step_c + i
    cdef real* r = NULL
    cdef uint64_t* bits = NULL
    if job.r.p != NULL:
        r = <real*> job.r.p + n * job.r.step_n + c * job.r.step_c + i
    if job.bits != NULL:
        bits = job.bits + bits_of(job, n, c) + i // TILE
    if job.g.p == NULL:
        affine_run(x, r, y, bits, length, <const real*> job.coef + c, job.coef_step, job.relu)
    else:
        gradient_run(<const real*> job.g.p + n * job.g.step_n + c * job.g.step_c + i, x, bits, y, r, length,
                     <const real*> job.coef + c, job.coef_step, job.gate, job.frozen)


# ---- units ---------------------------------------------------------------------------------------------------------

cdef inline void clear(Moments* moments, double* sums) noexcept nogil:
    moments.n = 0
    moments.mean = 0
    moments.m2 = 0
    sums[0] = 0
    sums[1] = 0


cdef extern from *:
    """
    #if defined(__GNUC__) || defined(__clang__)
    #define FASTBN_FETCH(p) __builtin_prefetch((p), 0, 2)
    #else
    #define FASTBN_FETCH(p) ((void)(p))
    #endif
    """
    void FASTBN_FETCH(const void*) noexcept nogil


cdef void fetch_group(Job* job, Block* b, const real* kind, Py_ssize_t c0, Py_ssize_t c1) noexcept nogil:
    # Small planes lie far apart for one channel and side by side for a group: fetch the group as it lies.
    cdef Py_ssize_t n
    cdef const char* p
    cdef const char* stop
    for n in range(job.n):
        p = <const char*> (<const real*> b.p + n * b.step_n + c0 * b.step_c)
        stop = <const char*> (<const real*> b.p + n * b.step_n + (c1 - 1) * b.step_c + job.s)
        while p < stop:
            FASTBN_FETCH(p)
            p += 64


cdef void planes_group(Job* job, const real* kind, Py_ssize_t unit) noexcept nogil:
    cdef Py_ssize_t c0 = unit * job.group
    cdef Py_ssize_t c1 = least(c0 + job.group, job.c)
    cdef Py_ssize_t c, n, u
    cdef Moments all, part
    cdef double[2] sums_all
    cdef double[2] sums
    if job.n > 1 and job.s < CHUNK and c1 > c0 + 1:
        fetch_group(job, &job.x, kind, c0, c1)
        if job.g.p != NULL:
            fetch_group(job, &job.g, kind, c0, c1)
    for c in range(c0, c1):
        clear(&all, sums_all)
        for u in range(job.spans):
            clear(&part, sums)
            reduce_span(job, kind, c, u, &part, sums)
            merge(&all, part)
            sums_all[0] += sums[0]
            sums_all[1] += sums[1]
        set_result(job, c, all, sums_all)
    if job.y.p == NULL:
        return
    finish_channels(job, <real*> job.coef, c0, c1)
    n = job.n - 1
    while n >= 0:
        for c in range(c0, c1):
            transform_run(job, kind, n, c, 0, job.s)
        n -= 1


cdef void planes_span(Job* job, const real* kind, Py_ssize_t unit) noexcept nogil:
    cdef Moments moments
    cdef double[2] sums
    clear(&moments, sums)
    reduce_span(job, kind, unit // job.spans, unit % job.spans, &moments, sums)
    job.part1[unit] = moments.mean if job.g.p == NULL else sums[0]
    job.part2[unit] = moments.m2 if job.g.p == NULL else sums[1]


cdef void planes_merge(Job* job, const real* kind, Py_ssize_t c) noexcept nogil:
    cdef Moments all, part
    cdef double[2] sums
    cdef Py_ssize_t u, n
    clear(&all, sums)
    for u in range(job.spans):
        if job.g.p != NULL:
            sums[0] += job.part1[c * job.spans + u]
            sums[1] += job.part2[c * job.spans + u]
        else:
            n = (u // job.pieces) * job.span_images
            part.n = (<double> (least(n + job.span_images, job.n) - n)
                      * <double> least(SPAN, job.s - (u % job.pieces) * SPAN))
            part.mean = job.part1[c * job.spans + u]
            part.m2 = job.part2[c * job.spans + u]
            merge(&all, part)
    set_result(job, c, all, sums)
    if job.y.p != NULL:
        finish_channels(job, <real*> job.coef, c, c + 1)


cdef void planes_transform(Job* job, const real* kind, Py_ssize_t unit) noexcept nogil:
    cdef Py_ssize_t p = unit // job.pieces * job.apply_planes
    cdef Py_ssize_t stop = least(p + job.apply_planes, job.n * job.c)
    cdef Py_ssize_t i = (unit % job.pieces) * SPAN
    cdef Py_ssize_t n = p // job.c
    cdef Py_ssize_t c = p % job.c
    while p < stop:
        transform_run(job, kind, n, c, i, least(job.s - i, SPAN))
        p += 1
        c += 1
        if c == job.c:
            c = 0
            n += 1
