# `planes`: (N, C, S), a channel is N runs of S contiguous elements.
#
# a) The elements of a channel are cut into spans: SPAN elements of one plane, or as many whole planes as SPAN holds. A
#    span is reduced in one reading; the spans of a channel are merged in order. The cut depends only on the shape.
# b) A group of channels that fits the cache (the second level, or a share of the last) is reduced and then applied at
#    once, last image first, so the data come from memory once. The size of a group decides when a channel is processed,
#    not how.
# c) With too few channels for the threads, `group` is 0, the units are spans, and one phase each reduces, merges and
#    applies. The units of the elementwise pass may depend on the threads: no sum crosses them.
# d) The forward of a single image joins the channels of a statistic: they lie side by side, so they are reduced as one
#    channel, and none of them has sums of its own.

cdef enum:
    SPAN = 32768        # elements of a span
    SMALL = 128         # elements of a plane below which a forward touches it first, and threads pay earlier


cdef inline Py_ssize_t evenly(Py_ssize_t total, Py_ssize_t most, int threads) noexcept nogil:
    # The size of a part, up to `most`, with which the threads have nearly the same number of parts.
    return parts(total, parts(parts(total, most), threads) * threads)


cdef inline bint joins(const Geometry* g, bint gradient) noexcept nogil:
    # Whether the channels of a statistic of planes are reduced as one. This follows from the shape alone.
    return g.channels > 1 and g.samples == 1 and not gradient


cdef void plan_planes(Job* job, Py_ssize_t cache, Py_ssize_t last_cache, int threads) noexcept nogil:
    cdef Py_ssize_t channels = job.geometry.channels
    cdef Py_ssize_t channel_bytes = job.n * job.s * job.itemsize * arrays_of(job)
    cdef Py_ssize_t share
    cdef Cut* cut = &job.cut
    cut.fetch = job.s < SMALL and job.n > 1 and not job.gradient and job.c * channel_bytes > 4 * cache
    cut.joined = channels if joins(&job.geometry, job.gradient) else 1
    cut.length = job.s * cut.joined
    cut.plane_pieces = parts(job.s, SPAN)
    cut.pieces = parts(cut.length, SPAN)
    cut.span_images = 1 if cut.pieces > 1 else least(job.n, SPAN // cut.length)
    cut.spans = parts(job.n, cut.span_images) * cut.pieces
    if job.c // channels < 2 * threads and (cut.spans > 1 or (channels > 1 and threads > 1)):
        cut.group = 0
    else:
        # What fits the second level, or a thread's share of the last cache: planes of more channels lie side by side.
        share = last_cache // (4 * threads)
        if share > cache:
            cache = share
        cut.group = cache // channel_bytes if cache > channel_bytes else 1
        cut.group = evenly(job.c, cut.group, threads)
        cut.group = parts(cut.group, channels) * channels
    cut.unit_planes = 1 if cut.plane_pieces > 1 else evenly(job.n * job.c, SPAN // job.s, threads)
    job.coefs = Coefs(NULL, job.c, job.c, 1)


cdef inline Py_ssize_t plane_words(const Job* job, Py_ssize_t n, Py_ssize_t c) noexcept nogil:
    # The first word of the ReLU bits of a plane.
    return (n * job.c + c) * parts(job.s, LANES)


cdef inline Span span_of(const Job* job, Py_ssize_t c, int channels, Py_ssize_t u) noexcept nogil:
    # Span u of some channels, or joined channels.
    cdef Py_ssize_t image = u if job.cut.pieces == 1 else u // job.cut.pieces
    cdef Py_ssize_t n = image * job.cut.span_images
    cdef Py_ssize_t i = (u - image * job.cut.pieces) * SPAN
    cdef Span out
    out.type = job.type
    out.whole = job.whole
    out.itemsize = job.itemsize
    out.x = job.x
    out.x.step_c *= job.cut.joined
    out.x.p = at(job, &out.x, n, c, i)
    out.dy = out.x                          # if absent, not used; nor the bits
    if job.gradient:
        out.dy = job.dy
        out.dy.p = at(job, &job.dy, n, c, i)
    out.bits = <const uint16_t*> out.x.p
    if job.gradient and job.gate == BITS:
        out.bits = job.bits + plane_words(job, n, c) + i // LANES
    out.bits_step_c = parts(job.s, LANES)
    out.bits_step_n = job.c * out.bits_step_c
    out.channels = channels
    out.runs = least(job.cut.span_images, job.n - n)
    out.length = least(SPAN, job.cut.length - i)
    return out


cdef inline void reduce_span(
    Job* job, Py_ssize_t c, int channels, Py_ssize_t u,     # of up to ABREAST channels
    Moments* moments,                                       # OUT (channels,), in a forward
    double* sums,                                           # OUT (channels, 2), in a backward
    const real* kind,
) noexcept nogil:
    cdef Span span = span_of(job, c, channels, u)
    cdef bint exact = job.exact or job.values <= FEW
    if not job.gradient:
        if real is float and not exact:
            span_moments(span, moments, kind, <float> 0)
        else:
            span_moments(span, moments, kind, <double> 0)
    elif real is float and not exact:
        span_gradients(job.gate, span, coefs_from(job.coefs, c, kind), sums, kind, <float> 0)
    else:
        span_gradients(job.gate, span, coefs_from(job.coefs, c, kind), sums, kind, <double> 0)


cdef struct Planes:         # the elements i .. i + length of the planes c .. c + planes of image n
    Py_ssize_t n
    Py_ssize_t c
    Py_ssize_t planes
    Py_ssize_t i
    Py_ssize_t length


cdef inline Runs planes_at(const Job* job, const Array* a, Planes p) noexcept nogil:
    return Runs(at(job, a, p.n, p.c, p.i), a.step_c * job.itemsize)


cdef void apply_to_planes(const Job* job, Planes p, const real* kind) noexcept nogil:
    cdef ForwardRuns forward_arrays
    cdef GradientRuns gradient_arrays
    cdef Coefs coefs = coefs_from(job.coefs, p.c, kind)
    cdef Runs x = planes_at(job, &job.x, p)
    cdef Words bits = Words(<uint16_t*> x.p, parts(job.s, LANES))
    if job.bits != NULL:
        bits.p = job.bits + plane_words(job, p.n, p.c) + p.i // LANES
    if job.upstream.p != NULL and not job.reduces:
        derive_planes(job, p, kind)
    if job.gradient:
        gradient_arrays.runs = p.planes
        gradient_arrays.length = p.length
        gradient_arrays.dy = planes_at(job, &job.dy, p)
        gradient_arrays.x = x
        gradient_arrays.bits = bits
        gradient_arrays.dx = planes_at(job, &job.dx, p)
        gradient_arrays.dresidual = planes_at(job, present(&job.dresidual, &job.dx), p)
        gradient(False, mode_of(job), gradient_arrays, coefs, kind)
    else:
        forward_arrays.runs = p.planes
        forward_arrays.length = p.length
        forward_arrays.x = x
        forward_arrays.residual = planes_at(job, present(&job.residual, &job.x), p)
        forward_arrays.y = planes_at(job, &job.y, p)
        forward_arrays.bits = bits
        forward_runs(False, job, forward_arrays, coefs, kind)
    if job.cut.stream:
        fastbn_fence()


# ---- units ---------------------------------------------------------------------------------------------------------

cdef void fetch_group(const Job* job, const Array* a, Py_ssize_t c0, Py_ssize_t c1) noexcept nogil:
    # The small planes of a channel lie far apart, those of a group side by side: load the group in order of memory.
    cdef Py_ssize_t n
    for n in range(job.n):
        touch(at(job, a, n, c0, 0), c1 - c0, job.s * job.itemsize, a.step_c * job.itemsize)


cdef void reduce_channels(Job* job, Py_ssize_t c, int channels, const real* kind) noexcept nogil:
    # All spans of up to ABREAST channels.
    cdef Moments[ABREAST] moments           # in a forward
    cdef Moments[ABREAST] part
    cdef double[2 * ABREAST] sums           # in a backward
    cdef double[2 * ABREAST] sums_part
    cdef Py_ssize_t u
    cdef int k
    reduce_span(job, c, channels, 0, moments, sums, kind)
    for u in range(1, job.cut.spans):
        if stopped(job):
            return
        reduce_span(job, c, channels, u, part, sums_part, kind)
        if job.gradient:
            for k in range(2 * channels):
                sums[k] += sums_part[k]
        else:
            for k in range(channels):
                merge(&moments[k], part[k])
    if job.gradient:
        for k in range(channels):
            store_sums(job, c + k, sums[2 * k], sums[2 * k + 1])
    else:
        for k in range(channels):
            store_moments(job, c + k, &moments[k])


cdef void planes_group(Job* job, Py_ssize_t unit, const real* kind) noexcept nogil:
    cdef Py_ssize_t c0 = unit * job.cut.group
    cdef Py_ssize_t c1 = least(c0 + job.cut.group, job.c)
    cdef Py_ssize_t c = c0 // job.cut.joined, stop = c1 // job.cut.joined, n
    if job.gradient:
        prepare_channels(job, c0, c1, kind)
    if job.upstream.p != NULL:
        for n in range(job.n):
            if stopped(job):
                return
            derive_planes(job, Planes(n, c0, c1 - c0, 0, job.s), kind)
    elif job.cut.fetch and c1 > c0 + 1:
        fetch_group(job, &job.x, c0, c1)
    while c < stop:
        reduce_channels(job, c, <int> least(ABREAST, stop - c), kind)
        c += ABREAST
    if not job.applies:
        return
    finish_channels(job, c0, c1, kind)
    n = job.n - 1
    while n >= 0 and not stopped(job):
        apply_to_planes(job, Planes(n, c0, c1 - c0, 0, job.s), kind)
        n -= 1


cdef void planes_span(Job* job, Py_ssize_t unit, const real* kind) noexcept nogil:
    cdef Moments moments
    cdef double[2] sums
    cdef Py_ssize_t c = unit // job.cut.spans, u = unit % job.cut.spans
    if job.upstream.p != NULL:
        derive_span(job, c, u, kind)
    reduce_span(job, c, 1, u, &moments, sums, kind)
    if job.gradient:
        job.partials.sum_dy[unit] = sums[0]
        job.partials.products[unit] = sums[1]
    else:
        job.partials.mean[unit] = moments.mean
        job.partials.m2[unit] = moments.m2
        job.partials.low[unit] = moments.low


cdef inline double span_values(const Job* job, Py_ssize_t u) noexcept nogil:
    # Values of span u.
    cdef Py_ssize_t n = (u // job.cut.pieces) * job.cut.span_images
    return (<double> (least(n + job.cut.span_images, job.n) - n)
            * <double> least(SPAN, job.cut.length - (u % job.cut.pieces) * SPAN))


cdef void merge_spans(Job* job, Py_ssize_t c) noexcept nogil:
    cdef Moments moments, part
    cdef double sum_dy = 0, products = 0
    cdef Py_ssize_t u, k = c * job.cut.spans
    moments = Moments(0, 0, 0, 0, 0)
    for u in range(job.cut.spans):
        if job.gradient:
            sum_dy += job.partials.sum_dy[k + u]
            products += job.partials.products[k + u]
        else:
            part = Moments(span_values(job, u), job.partials.mean[k + u], job.partials.low[k + u],
                           job.partials.m2[k + u], 0)
            merge(&moments, part)
    if job.gradient:
        store_sums(job, c, sum_dy, products)
    else:
        store_moments(job, c, &moments)


cdef void planes_merge(Job* job, Py_ssize_t statistic, const real* kind) noexcept nogil:
    cdef Py_ssize_t c0 = statistic * job.geometry.channels, c1 = c0 + job.geometry.channels, c
    for c in range(c0 // job.cut.joined, c1 // job.cut.joined):
        merge_spans(job, c)
    if job.applies:
        finish_channels(job, c0, c1, kind)


cdef void planes_apply(Job* job, Py_ssize_t unit, const real* kind) noexcept nogil:
    cdef Py_ssize_t p = unit // job.cut.plane_pieces * job.cut.unit_planes
    cdef Py_ssize_t stop = least(p + job.cut.unit_planes, job.n * job.c)
    cdef Py_ssize_t i = (unit % job.cut.plane_pieces) * SPAN
    cdef Py_ssize_t n = p // job.c
    cdef Py_ssize_t c = p % job.c
    cdef Py_ssize_t planes
    while p < stop:
        planes = least(stop - p, job.c - c)
        apply_to_planes(job, Planes(n, c, planes, i, least(job.s - i, SPAN)), kind)
        p += planes
        c = 0
        n += 1
