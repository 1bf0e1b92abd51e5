#include "loops.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <memory>
#include <string>

namespace nb = nanobind;
using namespace nb::literals;

using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Codes = nb::ndarray<std::int8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Counts = nb::ndarray<nb::numpy, std::int64_t, nb::ndim<1>>;

static void quantize_int8(Floats x, Codes codes, double scale, int offset, int rounding) {
    if (codes.size() != x.size()) throw nb::value_error("codes and x differ in size");
    if (rounding < 0 || rounding > 2) throw nb::value_error("rounding is 0, 1 or 2");
    nb::gil_scoped_release release;
    porting::quantize_int8(x.data(), codes.data(), x.size(), static_cast<float>(scale), static_cast<float>(offset),
                           static_cast<porting::Rounding>(rounding));
}

static nb::tuple dyadic_histogram(Floats x) {
    constexpr std::size_t size = 2 * porting::kBins;
    auto counts = std::make_unique<std::int64_t[]>(size);
    porting::Histogram h;
    {
        nb::gil_scoped_release release;
        h = porting::dyadic_histogram(x.data(), x.size(), counts.get());
    }
    std::int64_t* data = counts.release();
    nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<std::int64_t*>(p); });
    return nb::make_tuple(Counts(data, {size}, owner), h.exponent, h.zeros, h.low, h.high, h.non_finite);
}

static std::string instruction_set() {
#if defined(PORTING_TARGET_CLONES)
    if (__builtin_cpu_supports("x86-64-v4")) return "x86-64-v4";
    if (__builtin_cpu_supports("x86-64-v3")) return "x86-64-v3";
#endif
#if defined(__aarch64__)
    return "aarch64";
#else
    return "baseline";
#endif
}

NB_MODULE(_native, m) {
    m.doc() = "Loops of porting_kernels.native; use that module, which also runs where this one is missing.";
    m.def("quantize_int8", &quantize_int8, "x"_a, "codes"_a, "scale"_a, "offset"_a, "rounding"_a);
    m.def("dyadic_histogram", &dyadic_histogram, "x"_a);
    m.def("instruction_set", &instruction_set);
}
