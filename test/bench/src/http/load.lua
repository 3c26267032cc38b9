-- What wrk says at its end, in a form that needs no guessing about units.
done = function(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format(
        "result requests=%d microseconds=%d p50=%d p99=%d errors=%d\n",
        summary.requests, summary.duration,
        latency:percentile(50), latency:percentile(99),
        errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
