#!/bin/sh
# Port the digits network to two chips in int8, prove parity, and count right answers before and after.
set -eu
cd "$(dirname "$0")/../.."
out=${OUT:-out}
data=examples/cnn
rm -rf "$out/ascend-910b" "$out/cambricon-mlu370"
mkdir -p "$out"

# A quantized model for Ascend has fixed shapes, so the batch is 1; the other chip takes the same.
for backend in ascend-910b cambricon-mlu370; do
    porting port $data/model.onnx --backend $backend --scheme w8a8-static --dim batch=1 \
        --calibrate $data/calibration.npz --inputs $data/test.npz -o "$out/$backend"
done

echo
echo "Accuracy on the test set, float reference and simulated chips:"
porting reference $data/model.onnx --inputs $data/test.npz --outputs "$out/reference.npz" >/dev/null
for backend in ascend-910b cambricon-mlu370; do
    porting simulate "$out/$backend" --inputs $data/test.npz --outputs "$out/$backend.npz" >/dev/null
done
python $data/accuracy.py "$out/reference.npz" "$out/ascend-910b.npz" "$out/cambricon-mlu370.npz"
echo
echo "Open $out/ascend-910b/report.html and $out/cambricon-mlu370/report.html in a browser."
