#include "runner.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "error.h"

namespace lab {
namespace {

constexpr int kNumWarmupCalls = 3;

std::vector<Entry> OnlyBatch(const std::vector<Entry>& entries, int64_t batch_size) {
  std::string known;
  for (const Entry& entry : entries) {
    if (entry.batch_size == batch_size) return {entry};
    known += (known.empty() ? "" : ", ") + std::to_string(entry.batch_size);
  }
  throw Error(Kind::kUsage, "the bundle has no function for this batch size", std::to_string(batch_size),
              known + " (0: any)", "compile the model for this batch size too");
}

// Throws Error(data) when outputs would have to be joined or trimmed that have no batch dimension.
void CheckSplittable(const Signature& signature, const std::vector<Chunk>& chunks) {
  if (chunks.size() == 1 && chunks[0].num_samples == chunks[0].batch_size) return;
  for (const TensorSpec& spec : signature.outputs) {
    if (BatchAxis(spec) >= 0) continue;
    throw Error(Kind::kData, "output '" + spec.name + "' has no batch dimension, so samples cannot be split or padded",
                "", "exactly a batch size the bundle was compiled for");
  }
}

}  // namespace

Runner::Runner(std::string folder, Manifest manifest, int64_t batch_size)
    : folder_(std::move(folder)), manifest_(std::move(manifest)) {
  if (batch_size >= 0) manifest_.entries = OnlyBatch(manifest_.entries, batch_size);
  const auto& specs = manifest_.signature.inputs;
  has_batch_ = std::any_of(specs.begin(), specs.end(), [](const TensorSpec& spec) { return BatchAxis(spec) >= 0; });
}

std::vector<Chunk> Runner::PlanInputs(const std::map<std::string, Array>& inputs) const {
  const auto dims = CheckInputs(manifest_.signature, inputs);
  if (!has_batch_) return {{0, 0, 0, 0}};
  if (dims.at(kBatch) == 0) throw Error(Kind::kData, "no samples to run", "a batch of 0", "at least 1");
  const std::vector<Chunk> chunks = Plan(manifest_.entries, dims.at(kBatch));
  CheckSplittable(manifest_.signature, chunks);
  return chunks;
}

Model& Runner::ModelOf(size_t entry) {
  auto found = models_.find(entry);
  if (found == models_.end()) found = models_.emplace(entry, Model(folder_, manifest_.entries[entry])).first;
  return found->second;
}

std::vector<Array> Runner::RunChunk(const std::map<std::string, Array>& inputs, const Chunk& chunk) {
  std::vector<Array> arguments;
  std::map<std::string, Array> named;
  for (const TensorSpec& spec : manifest_.signature.inputs) {
    const int axis = BatchAxis(spec);
    arguments.push_back(axis >= 0 ? Take(inputs.at(spec.name), axis, chunk) : inputs.at(spec.name));
    named[spec.name] = Array{arguments.back().dtype, arguments.back().shape, {}};
  }
  Model& model = ModelOf(chunk.entry);
  model.SetInputs(arguments);
  model.Run();
  auto outputs = model.Outputs();
  CheckOutputs(manifest_.signature, outputs, CheckInputs(manifest_.signature, named));
  return outputs;
}

std::vector<Array> Runner::Run(const std::map<std::string, Array>& inputs) {
  const std::vector<Chunk> chunks = PlanInputs(inputs);
  std::vector<std::vector<Array>> parts(manifest_.signature.outputs.size());
  for (const Chunk& chunk : chunks) {
    auto outputs = RunChunk(inputs, chunk);
    for (size_t i = 0; i < outputs.size(); ++i) parts[i].push_back(std::move(outputs[i]));
  }
  std::vector<Array> whole;
  for (size_t i = 0; i < parts.size(); ++i) {
    const int axis = has_batch_ ? BatchAxis(manifest_.signature.outputs[i]) : -1;
    whole.push_back(axis >= 0 ? Join(parts[i], axis, chunks) : std::move(parts[i].front()));
  }
  return whole;
}

std::vector<double> Runner::Time(const std::map<std::string, Array>& inputs, int num_calls, Chunk* timed) {
  *timed = PlanInputs(inputs).front();
  RunChunk(inputs, *timed);
  Model& model = ModelOf(timed->entry);
  std::vector<double> latencies_ms;
  for (int call = -kNumWarmupCalls; call < num_calls; ++call) {
    const auto start = std::chrono::steady_clock::now();
    model.Run();
    const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - start;
    if (call >= 0) latencies_ms.push_back(elapsed.count());
  }
  return latencies_ms;
}

}  // namespace lab
