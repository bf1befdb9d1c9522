#include "batching.h"

#include <algorithm>
#include <cstring>
#include <tuple>

#include "error.h"

namespace lab {

const char kBatch[] = "batch";

namespace {

void CheckArray(Kind kind, const TensorSpec& spec, const Array& array, std::map<std::string, int64_t>* dims) {
  const std::string got = Describe(array.dtype->name, array.shape);
  const std::string tensor = "tensor '" + spec.name + "' has the wrong ";
  if (spec.dtype != array.dtype->name) throw Error(kind, tensor + "dtype", got, spec.ToString());
  if (spec.shape.size() != array.shape.size()) throw Error(kind, tensor + "number of dimensions", got, spec.ToString());
  for (size_t i = 0; i < spec.shape.size(); ++i) {
    const Dim& dim = spec.shape[i];
    const int64_t wanted = dim.symbol.empty() ? dim.size : dims->emplace(dim.symbol, array.shape[i]).first->second;
    if (array.shape[i] != wanted) throw Error(kind, tensor + "shape", got, spec.ToString());
  }
}

// An array seen as [num_outer, axis, inner_bytes].
struct View {
  View(const Array& array, int axis) : axis_size(static_cast<size_t>(array.shape[axis])) {
    num_outer = NumElements({array.shape.begin(), array.shape.begin() + axis}, 1);
    const size_t item_bytes = array.dtype->size_bytes();
    inner_bytes = NumElements({array.shape.begin() + axis + 1, array.shape.end()}, item_bytes) * item_bytes;
  }
  size_t Offset(size_t outer, int64_t at) const { return (outer * axis_size + static_cast<size_t>(at)) * inner_bytes; }

  size_t axis_size, num_outer, inner_bytes;
};

Array WithAxisSize(const Array& like, int axis, int64_t size) {
  Array array{like.dtype, like.shape, {}};
  array.shape[axis] = size;
  array.data.resize(NumElements(array.shape, array.dtype->size_bytes()) * array.dtype->size_bytes());
  return array;
}

void CopySamples(const Array& from, int64_t from_first, Array* to, int64_t to_first, int64_t num_samples, int axis) {
  const View source(from, axis), target(*to, axis);
  for (size_t outer = 0; outer < source.num_outer; ++outer) {
    std::memcpy(to->data.data() + target.Offset(outer, to_first), from.data.data() + source.Offset(outer, from_first),
                static_cast<size_t>(num_samples) * source.inner_bytes);
  }
}

// Entries, by index, whose batch sizes add up to at least `num_samples` at the least cost.
std::vector<size_t> Cheapest(const std::vector<Entry>& entries, int64_t num_samples) {
  using Cost = std::tuple<int64_t, int64_t, int64_t, size_t>;  // samples computed, calls, last batch size and entry
  std::vector<Cost> best = {{0, 0, 0, 0}};
  for (int64_t count = 1; count <= num_samples; ++count) {
    std::vector<Cost> options;
    for (size_t i = 0; i < entries.size(); ++i) {
      const int64_t size = entries[i].batch_size;
      const Cost& before = best[static_cast<size_t>(std::max<int64_t>(count - size, 0))];
      options.emplace_back(std::get<0>(before) + size, std::get<1>(before) + 1, size, i);
    }
    best.push_back(*std::min_element(options.begin(), options.end()));
  }
  std::vector<size_t> chosen;
  for (int64_t left = num_samples; left > 0; left -= entries[chosen.back()].batch_size) {
    chosen.push_back(std::get<3>(best[static_cast<size_t>(left)]));
  }
  return chosen;
}

}  // namespace

std::map<std::string, int64_t> CheckInputs(const Signature& signature, const std::map<std::string, Array>& inputs) {
  std::string expected;
  for (const TensorSpec& spec : signature.inputs) expected += (expected.empty() ? "" : ", ") + spec.name;
  std::string got;
  for (const auto& [name, array] : inputs) got += (got.empty() ? "" : ", ") + name;
  std::map<std::string, int64_t> dims;
  for (const TensorSpec& spec : signature.inputs) {
    const auto found = inputs.find(spec.name);
    if (found == inputs.end() || inputs.size() != signature.inputs.size()) {
      throw Error(Kind::kData, "input names do not match the signature", got, expected, "--input NAME=FILE.npy");
    }
    CheckArray(Kind::kData, spec, found->second, &dims);
  }
  return dims;
}

void CheckOutputs(const Signature& signature, const std::vector<Array>& outputs, std::map<std::string, int64_t> dims) {
  if (outputs.size() != signature.outputs.size()) {
    throw Error(Kind::kRuntime, "the model has another number of outputs than the manifest says",
                std::to_string(outputs.size()), std::to_string(signature.outputs.size()));
  }
  for (size_t i = 0; i < outputs.size(); ++i) CheckArray(Kind::kRuntime, signature.outputs[i], outputs[i], &dims);
}

int BatchAxis(const TensorSpec& spec) {
  for (size_t i = 0; i < spec.shape.size(); ++i) {
    if (spec.shape[i].symbol == kBatch) return static_cast<int>(i);
  }
  return -1;
}

std::vector<Chunk> Plan(const std::vector<Entry>& entries, int64_t num_samples) {
  size_t largest = 0;
  for (size_t i = 0; i < entries.size(); ++i) {
    if (entries[i].batch_size == 0) return {{i, 0, num_samples, num_samples}};
    if (entries[i].batch_size > entries[largest].batch_size) largest = i;
  }
  // Some of any `most` other calls add up to a multiple of the largest size, so fewer than that are ever needed.
  const int64_t most = entries[largest].batch_size;
  const int64_t num_largest = std::max<int64_t>(0, num_samples / most - most);
  std::vector<size_t> chosen = Cheapest(entries, num_samples - num_largest * most);
  chosen.insert(chosen.end(), static_cast<size_t>(num_largest), largest);
  std::stable_sort(chosen.begin(), chosen.end(),
                   [&](size_t a, size_t b) { return entries[a].batch_size > entries[b].batch_size; });
  std::vector<Chunk> chunks;
  int64_t first = 0;
  for (size_t entry : chosen) {
    const int64_t batch_size = entries[entry].batch_size;
    chunks.push_back({entry, first, std::min(batch_size, num_samples - first), batch_size});
    first += batch_size;
  }
  return chunks;
}

Array Take(const Array& array, int axis, const Chunk& chunk) {
  Array taken = WithAxisSize(array, axis, chunk.batch_size);
  CopySamples(array, chunk.first, &taken, 0, chunk.num_samples, axis);
  return taken;
}

Array Join(const std::vector<Array>& parts, int axis, const std::vector<Chunk>& chunks) {
  Array whole = WithAxisSize(parts.front(), axis, chunks.back().first + chunks.back().num_samples);
  for (size_t i = 0; i < parts.size(); ++i) {
    CopySamples(parts[i], 0, &whole, chunks[i].first, chunks[i].num_samples, axis);
  }
  return whole;
}

}  // namespace lab
