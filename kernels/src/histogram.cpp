#include "loops.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace porting {

// One block stays in the first-level cache between finding its range and counting it: one pass over memory.
constexpr std::size_t kBlock = 4096;

struct BlockRange {
    std::uint32_t magnitude;  // bits of the greatest |x|; NaN and infinities are the greatest of all
    std::int32_t low;         // keys: the bits of a float, mapped so that integers order like the floats they stand for
    std::int32_t high;
};

// Also its own inverse.
static inline std::int32_t key_of(std::int32_t bits) { return bits ^ ((bits >> 31) & 0x7fffffff); }

PORTING_DISPATCH
void block_range(const float* x, std::size_t size, BlockRange* range) {
    std::uint32_t magnitude = 0;
    std::int32_t low = 0x7fffffff;
    std::int32_t high = -0x7fffffff - 1;
    for (std::size_t i = 0; i < size; ++i) {
        std::int32_t bits;
        std::memcpy(&bits, x + i, sizeof bits);
        const std::uint32_t absolute = static_cast<std::uint32_t>(bits) & 0x7fffffffu;
        const std::int32_t key = key_of(bits);
        magnitude = absolute > magnitude ? absolute : magnitude;
        low = key < low ? key : low;
        high = key > high ? key : high;
    }
    *range = {magnitude, low, high};
}

PORTING_DISPATCH
void block_bins(const float* x, std::size_t size, float scale, std::uint16_t* bins, std::int64_t* zeros) {
    std::int32_t zero_count = 0;
    for (std::size_t i = 0; i < size; ++i) {
        const float magnitude = (x[i] < 0.0f ? -x[i] : x[i]) * scale;
        const std::int32_t bin = static_cast<std::int32_t>(magnitude) + (x[i] < 0.0f ? kBins : 0);
        bins[i] = static_cast<std::uint16_t>(bin);
        zero_count += x[i] == 0.0f ? 1 : 0;
    }
    *zeros += zero_count;
}

static float float_of(std::int32_t key) {
    const std::int32_t bits = key_of(key);
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value + 0.0f;
}

static int exponent_of(std::uint32_t magnitude) {
    if (magnitude < 0x00800000u) return kLeastExponent;
    return std::max(static_cast<int>(magnitude >> 23) - 126, kLeastExponent);
}

static void widen(std::int64_t* counts, int steps) {
    const int merged = 1 << std::min(steps, 11);
    for (int side = 0; side < 2; ++side) {
        std::int64_t* c = counts + side * kBins;
        for (int i = 0; i < kBins / merged; ++i) {
            std::int64_t sum = 0;
            for (int j = 0; j < merged; ++j) sum += c[i * merged + j];
            c[i] = sum;
        }
        std::fill(c + kBins / merged, c + kBins, 0);
    }
}

Histogram dyadic_histogram(const float* x, std::size_t size, std::int64_t* counts) {
    Histogram h;
    std::int32_t low = 0x7fffffff;
    std::int32_t high = -0x7fffffff - 1;
    std::uint16_t bins[kBlock];
    // Two tables taken in turn: runs of equal values would otherwise wait for the previous increment to be stored.
    std::uint32_t first[2 * kBins];
    std::uint32_t second[2 * kBins];
    std::memset(first, 0, sizeof first);
    std::memset(second, 0, sizeof second);
    std::size_t pending = 0;
    const auto drain = [&] {
        for (int i = 0; i < 2 * kBins; ++i) counts[i] += static_cast<std::int64_t>(first[i]) + second[i];
        std::memset(first, 0, sizeof first);
        std::memset(second, 0, sizeof second);
        pending = 0;
    };
    for (std::size_t start = 0; start < size; start += kBlock) {
        const float* block = x + start;
        const std::size_t n = std::min(kBlock, size - start);
        BlockRange range;
        block_range(block, n, &range);
        if (range.magnitude >= 0x7f800000u) {
            h.non_finite = static_cast<std::ptrdiff_t>(start);
            while (std::isfinite(x[h.non_finite])) ++h.non_finite;
            return h;
        }
        low = std::min(low, range.low);
        high = std::max(high, range.high);
        const int exponent = exponent_of(range.magnitude);
        if (exponent > h.exponent) {
            drain();
            widen(counts, exponent - h.exponent);
            h.exponent = exponent;
        }
        block_bins(block, n, std::ldexp(1.0f, 11 - h.exponent), bins, &h.zeros);
        std::size_t i = 0;
        for (; i + 1 < n; i += 2) {
            ++first[bins[i]];
            ++second[bins[i + 1]];
        }
        if (i < n) ++first[bins[i]];
        pending += n;
        if (pending > (std::size_t{1} << 31)) drain();
    }
    drain();
    counts[0] -= h.zeros;
    h.low = float_of(low);
    h.high = float_of(high);
    return h;
}

}  // namespace porting
