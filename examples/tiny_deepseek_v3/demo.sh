#!/bin/sh
# Port the trained DeepSeek-V3 to two chips in int8, in the vendors' fused operators, and show what it costs.
set -eu
cd "$(dirname "$0")/../.."
out=${OUT:-out}
source=examples/tiny_deepseek_v3
rm -rf "$out/deepseek-ascend-910b" "$out/deepseek-cambricon-mlu590"
mkdir -p "$out"

for backend in ascend-910b cambricon-mlu590; do
    porting port $source --backend $backend --scheme w8a8 --inputs $source/sample.txt -o "$out/deepseek-$backend"
    echo
done
echo "Open $out/deepseek-ascend-910b/report.html and $out/deepseek-cambricon-mlu590/report.html in a browser."
