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

using Matrix = nb::ndarray<const std::uint8_t, nb::ndim<2>, nb::device::cpu>;
using Scales = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Result = nb::ndarray<T, nb::ndim<2>, nb::device::cpu>;

// Of a matrix that is not empty.
static porting::BlockScaled block_scaled(const Matrix& codes, const Scales& scales, std::size_t block_rows,
                                         std::size_t block_columns, std::size_t first_row, std::size_t first_column) {
    const std::size_t rows = codes.shape(0), columns = codes.shape(1);
    if (columns > 1 && codes.stride(1) != 1) throw nb::value_error("rows are not contiguous");
    if (block_rows == 0 || block_columns == 0) throw nb::value_error("blocks of nothing");
    if ((first_row + rows - 1) / block_rows >= scales.shape(0) ||
        (first_column + columns - 1) / block_columns >= scales.shape(1))
        throw nb::value_error("codes without a scale");
    return {codes.data(),    rows,       columns,       codes.stride(0), scales.data(),
            scales.shape(1), block_rows, block_columns, first_row,       first_column};
}

template <typename T, std::int64_t (*loop)(const porting::BlockScaled&, T*, std::ptrdiff_t)>
static std::int64_t dequantize_e4m3(Matrix codes, Scales scales, Result<T> out, std::size_t block_rows,
                                    std::size_t block_columns, std::size_t first_row, std::size_t first_column) {
    const std::size_t rows = codes.shape(0), columns = codes.shape(1);
    if (out.shape(0) != rows || out.shape(1) != columns) throw nb::value_error("codes and out differ in shape");
    if (rows == 0 || columns == 0) return 0;
    if (columns > 1 && out.stride(1) != 1) throw nb::value_error("rows are not contiguous");
    const auto m = block_scaled(codes, scales, block_rows, block_columns, first_row, first_column);
    nb::gil_scoped_release release;
    return loop(m, out.data(), out.stride(0));
}

using Values = nb::ndarray<const float, nb::ndim<2>, nb::device::cpu>;
template <typename T>
using Filled = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

static porting::WeightRows weight_rows(const Values& w, std::size_t group) {
    if (w.shape(1) > 1 && w.stride(1) != 1) throw nb::value_error("rows are not contiguous");
    return {w.data(), w.shape(0), w.shape(1), w.stride(0), group};
}

static nb::tuple of(const porting::Findings& found) {
    return nb::make_tuple(found.zero, found.not_finite, found.tiny, found.saturated);
}

static nb::tuple quantize_rows(Values w, Filled<std::int8_t> codes, Filled<float> scales, int limit, float divisor,
                               bool search) {
    const std::size_t rows = w.shape(0), columns = w.shape(1), groups = scales.shape(1);
    if (codes.shape(0) != rows || codes.shape(1) != columns) throw nb::value_error("codes and w differ in shape");
    if (scales.shape(0) != rows || groups == 0 || columns == 0 || columns % groups != 0)
        throw nb::value_error("scales do not divide the rows");
    const auto m = weight_rows(w, columns / groups);
    const auto scratch = std::make_unique<float[]>(search ? m.group : 0);
    porting::Findings found;
    {
        nb::gil_scoped_release release;
        found = porting::quantize_rows(m, {limit, divisor}, codes.data(), scales.data(),
                                       search ? scratch.get() : nullptr);
    }
    return of(found);
}

static nb::tuple requantize_e4m3(Matrix stored, Scales block_scales, Filled<std::int8_t> codes, Filled<float> scales,
                                 int limit, float divisor, bool search, std::size_t block_rows,
                                 std::size_t block_columns, std::size_t first_row, std::size_t first_column) {
    const std::size_t rows = stored.shape(0), columns = stored.shape(1), groups = scales.shape(1);
    if (codes.shape(0) != rows || codes.shape(1) != columns) throw nb::value_error("codes and w differ in shape");
    if (scales.shape(0) != rows || groups == 0 || rows == 0 || columns == 0 || columns % groups != 0)
        throw nb::value_error("scales do not divide the rows");
    const auto m = block_scaled(stored, block_scales, block_rows, block_columns, first_row, first_column);
    const std::size_t group = columns / groups;
    const auto scratch = std::make_unique<float[]>(search ? 2 * group : 0);
    porting::Findings found;
    std::int64_t nan = 0;
    {
        nb::gil_scoped_release release;
        found = porting::requantize_e4m3(m, group, {limit, divisor}, codes.data(), scales.data(),
                                         search ? scratch.get() : nullptr, &nan);
    }
    return nb::make_tuple(found.zero, found.not_finite, found.tiny, found.saturated, nan);
}

template <porting::Findings (*loop)(const porting::WeightRows&, std::uint8_t*, std::uint8_t*)>
static nb::tuple microscale(Values w, Filled<std::uint8_t> codes, Filled<std::uint8_t> exponents) {
    const std::size_t rows = w.shape(0), columns = w.shape(1);
    if (codes.shape(0) != rows || codes.shape(1) != columns) throw nb::value_error("codes and w differ in shape");
    if (exponents.shape(0) != rows || exponents.shape(1) * porting::kMicroscaled != columns)
        throw nb::value_error("scales do not divide the rows");
    const auto m = weight_rows(w, porting::kMicroscaled);
    porting::Findings found;
    {
        nb::gil_scoped_release release;
        found = loop(m, codes.data(), exponents.data());
    }
    return of(found);
}

template <porting::Findings (*loop)(const porting::WeightRows&, std::size_t, std::uint8_t*, float*, std::uint32_t*)>
static nb::tuple quantize_blocks(Values w, Filled<std::uint8_t> codes, Filled<float> scales, std::size_t block_rows,
                                 std::size_t block_columns) {
    const std::size_t rows = w.shape(0), columns = w.shape(1);
    if (codes.shape(0) != rows || codes.shape(1) != columns) throw nb::value_error("codes and w differ in shape");
    if (block_rows == 0 || block_columns == 0) throw nb::value_error("blocks of nothing");
    if (scales.shape(0) != (rows + block_rows - 1) / block_rows ||
        scales.shape(1) != (columns + block_columns - 1) / block_columns)
        throw nb::value_error("not a scale for each block");
    const auto m = weight_rows(w, block_columns);
    const auto scratch = std::make_unique<std::uint32_t[]>(scales.shape(1));
    porting::Findings found;
    {
        nb::gil_scoped_release release;
        found = loop(m, block_rows, codes.data(), scales.data(), scratch.get());
    }
    return of(found);
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
    m.def("dequantize_e4m3", &dequantize_e4m3<float, &porting::dequantize_e4m3>, "codes"_a, "scales"_a, "out"_a,
          "block_rows"_a, "block_columns"_a, "first_row"_a, "first_column"_a);
    m.def("dequantize_e4m3_bfloat16", &dequantize_e4m3<std::uint16_t, &porting::dequantize_e4m3_bfloat16>, "codes"_a,
          "scales"_a, "out"_a, "block_rows"_a, "block_columns"_a, "first_row"_a, "first_column"_a);
    m.def("quantize_rows", &quantize_rows, "w"_a, "codes"_a, "scales"_a, "limit"_a, "divisor"_a,
          "search"_a);
    m.def("requantize_e4m3", &requantize_e4m3, "stored"_a, "block_scales"_a, "codes"_a, "scales"_a, "limit"_a,
          "divisor"_a, "search"_a, "block_rows"_a, "block_columns"_a, "first_row"_a, "first_column"_a);
    m.def("microscale_e4m3", &microscale<&porting::microscale_e4m3>, "w"_a, "codes"_a, "exponents"_a);
    m.def("microscale_e2m1", &microscale<&porting::microscale_e2m1>, "w"_a, "codes"_a, "exponents"_a);
    m.def("quantize_blocks_int8", &quantize_blocks<&porting::quantize_blocks_int8>, "w"_a, "codes"_a, "scales"_a,
          "block_rows"_a, "block_columns"_a);
    m.def("quantize_blocks_e4m3", &quantize_blocks<&porting::quantize_blocks_e4m3>, "w"_a, "codes"_a, "scales"_a,
          "block_rows"_a, "block_columns"_a);
    m.def("instruction_set", &instruction_set);
}
