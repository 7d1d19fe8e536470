# `planes`: (N, C, S), a channel is N runs of S contiguous elements.
#
# a) A channel's elements are cut into spans: SPAN elements of one plane, or as many whole planes as SPAN holds. A span
#    is reduced in one reading; the spans of a channel are merged in order. All of it follows from the shape.
# b) A group of channels whose data stay in the cache, the second level or a share of the last, is reduced and then
#    transformed at once, last image first, so the data come from memory once. The size of a group decides when a
#    channel is done, not how.
# c) `group` is 0 with too few channels for the threads, spans are the units, and a phase each reduces, merges and
#    transforms.

cdef enum:
    SPAN = 32768        # elements of a span
    SMALL = 1024        # planes of fewer elements are fetched as they lie; in a backward, of half as many


cdef void plan_planes(
    Job* job, Py_ssize_t cache, Py_ssize_t last_cache, int threads,
) noexcept nogil:
    cdef Py_ssize_t channel_bytes = job.n * job.s * job.itemsize * (2 if job.g.p != NULL else 1)
    job.fetch = (job.s < (SMALL if job.g.p == NULL else SMALL // 2) and job.n > 1
                 and job.c * channel_bytes > 4 * cache)
    job.pieces = parts(job.s, SPAN)
    job.span_images = 1 if job.pieces > 1 else least(job.n, SPAN // job.s)
    job.spans = parts(job.n, job.span_images) * job.pieces
    if job.c < 2 * threads and job.spans > 1:
        job.group = 0
    else:
        # A thread's share of the last cache, with room for what others do: planes of more channels lie side by side.
        if last_cache // (4 * threads) > cache:
            cache = last_cache // (4 * threads)
        job.group = cache // channel_bytes if cache > channel_bytes else 1
        # as many groups for one thread as for another
        job.group = parts(job.c, parts(parts(job.c, job.group), threads) * threads)
    job.apply_planes = 1 if job.pieces > 1 else SPAN // job.s
    job.repeats = 1
    job.coef_step = job.c


cdef inline Py_ssize_t bits_of(Job* job, Py_ssize_t n, Py_ssize_t c) noexcept nogil:
    return (n * job.c + c) * parts(job.s, LANES)


cdef inline void reduce_span(
    Job* job, const real* kind, Py_ssize_t c, int channels, Py_ssize_t u, Moments* moments, double* sums,
) noexcept nogil:
    # Of up to BATCH channels; one of the results is set: moments in a forward, (channels, 2) sums in a backward.
    cdef Py_ssize_t image = u if job.pieces == 1 else u // job.pieces
    cdef Py_ssize_t n = image * job.span_images
    cdef Py_ssize_t i = (u - image * job.pieces) * SPAN
    cdef Py_ssize_t runs = least(job.span_images, job.n - n)
    cdef Py_ssize_t length = least(SPAN, job.s - i)
    cdef bint exact = job.exact or job.n * job.s <= FEW
    cdef const real* coef = <const real*> job.coef + c
    cdef Span span
    span.type = job.type
    span.whole = job.whole
    span.itemsize = job.itemsize
    span.x = at(job, &job.x, n, c, i)
    span.x_step = job.x.step_n
    span.x_step_c = job.x.step_c
    span.g = span.x                             # not looked at, nor the bits
    span.g_step = job.x.step_n
    span.g_step_c = job.x.step_c
    span.bits = <const uint16_t*> span.x
    span.bits_step_c = parts(job.s, LANES)
    span.bits_step = job.c * span.bits_step_c
    span.channels = channels
    span.runs = runs
    span.length = length
    if job.g.p == NULL:
        if real is float and not exact:
            span_moments(span, moments, kind, <float> 0)
        else:
            span_moments(span, moments, kind, <double> 0)
        return
    span.g = at(job, &job.g, n, c, i)
    span.g_step = job.g.step_n
    span.g_step_c = job.g.step_c
    if job.gate == BITS:
        span.bits = job.bits + bits_of(job, n, c) + i // LANES
    if real is float and not exact:
        span_gradients(span, coef, job.coef_step, job.gate, sums, <float> 0)
    else:
        span_gradients(span, coef, job.coef_step, job.gate, sums, <double> 0)


cdef inline void transform_planes(
    Job* job, const real* kind, Py_ssize_t n, Py_ssize_t c0, Py_ssize_t c1, Py_ssize_t i, Py_ssize_t length,
) noexcept nogil:
    # The elementwise pass over the planes c0..c1 of an image, or over a piece of one plane.
    cdef const char* x = at(job, &job.x, n, c0, i)
    cdef char* y = at(job, &job.y, n, c0, i)
    cdef char* r = NULL
    cdef uint16_t* bits = NULL
    cdef Py_ssize_t bits_step = parts(job.s, LANES), size = job.itemsize
    if job.r.p != NULL:
        r = at(job, &job.r, n, c0, i)
    if job.bits != NULL:
        bits = job.bits + bits_of(job, n, c0) + i // LANES
    if job.g.p == NULL:
        forward(job, x, job.x.step_c, r, job.r.step_c, y, job.y.step_c, bits, bits_step, c1 - c0, length, False,
                <const real*> job.coef + c0, 0)
    else:
        gradient(job.type, at(job, &job.g, n, c0, i), job.g.step_c * size, x, job.x.step_c * size, bits, bits_step,
                 y, job.y.step_c * size, r, job.r.step_c * size, c1 - c0, length, False,
                 <const real*> job.coef + c0, job.coef_step, 0, job.gate, job.frozen)
    if job.stream:
        fastbn_fence()


# ---- units ---------------------------------------------------------------------------------------------------------

cdef void fetch_group(Job* job, Block* b, Py_ssize_t c0, Py_ssize_t c1) noexcept nogil:
    # Small planes lie far apart for one channel and side by side for a group: fetch the group as it lies.
    cdef Py_ssize_t n
    for n in range(job.n):
        touch(at(job, b, n, c0, 0), c1 - c0, job.s * job.itemsize, b.step_c * job.itemsize)


cdef void reduce_channels(Job* job, const real* kind, Py_ssize_t c, int channels) noexcept nogil:
    # All spans of up to BATCH channels.
    cdef Moments[BATCH] all             # in a forward
    cdef Moments[BATCH] part
    cdef double[2 * BATCH] sums_all
    cdef double[2 * BATCH] sums
    cdef Py_ssize_t u
    cdef int k
    reduce_span(job, kind, c, channels, 0, all, sums_all)
    for u in range(1, job.spans):
        if stopped(job):
            return
        reduce_span(job, kind, c, channels, u, part, sums)
        if job.g.p == NULL:
            for k in range(channels):
                merge(&all[k], part[k])
        else:
            for k in range(2 * channels):
                sums_all[k] += sums[k]
    for k in range(channels):
        set_result(job, c + k, &all[k], sums_all + 2 * k)


cdef void planes_group(Job* job, const real* kind, Py_ssize_t unit) noexcept nogil:
    cdef Py_ssize_t c0 = unit * job.group
    cdef Py_ssize_t c1 = least(c0 + job.group, job.c)
    cdef Py_ssize_t c = c0, n
    if job.fetch and c1 > c0 + 1:
        fetch_group(job, &job.x, c0, c1)
        if job.g.p != NULL:
            fetch_group(job, &job.g, c0, c1)
    while c < c1:
        reduce_channels(job, kind, c, <int> least(BATCH, c1 - c))
        c += BATCH
    if job.y.p == NULL:
        return
    finish_channels(job, <real*> job.coef, c0, c1)
    n = job.n - 1
    while n >= 0 and not stopped(job):
        transform_planes(job, kind, n, c0, c1, 0, job.s)
        n -= 1


cdef void planes_span(Job* job, const real* kind, Py_ssize_t unit) noexcept nogil:
    cdef Moments moments
    cdef double[2] sums
    reduce_span(job, kind, unit // job.spans, 1, unit % job.spans, &moments, sums)
    job.part1[unit] = moments.mean if job.g.p == NULL else sums[0]
    job.part2[unit] = moments.m2 if job.g.p == NULL else sums[1]
    job.part3[unit] = moments.low if job.g.p == NULL else 0


cdef void planes_merge(Job* job, const real* kind, Py_ssize_t c) noexcept nogil:
    cdef Moments all, part
    cdef double[2] sums
    cdef Py_ssize_t u, n
    all.n = 0
    all.mean = 0
    all.low = 0
    all.m2 = 0
    all.rest = 0
    sums[0] = 0
    sums[1] = 0
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
            part.low = job.part3[c * job.spans + u]
            part.rest = 0
            merge(&all, part)
    set_result(job, c, &all, sums)
    if job.y.p != NULL:
        finish_channels(job, <real*> job.coef, c, c + 1)


cdef void planes_transform(Job* job, const real* kind, Py_ssize_t unit) noexcept nogil:
    cdef Py_ssize_t p = unit // job.pieces * job.apply_planes
    cdef Py_ssize_t stop = least(p + job.apply_planes, job.n * job.c)
    cdef Py_ssize_t i = (unit % job.pieces) * SPAN
    cdef Py_ssize_t n = p // job.c
    cdef Py_ssize_t c = p % job.c
    cdef Py_ssize_t planes
    while p < stop:
        planes = least(stop - p, job.c - c)
        transform_planes(job, kind, n, c, c + planes, i, least(job.s - i, SPAN))
        p += planes
        c = 0
        n += 1
