// lab_run: a bundle, .npy files in, .npy files out, on a device that has libtvm_runtime.so and libtvm_ffi.so.
#include <cstdio>
#include <exception>
#include <map>
#include <string>

#include "cpu.h"
#include "error.h"
#include "files.h"
#include "latency.h"
#include "manifest.h"
#include "model.h"
#include "npy.h"
#include "options.h"
#include "runner.h"

namespace lab {
namespace {

std::map<std::string, Array> ReadInputs(const Options& options) {
  std::map<std::string, Array> inputs;
  for (const auto& [name, path] : options.inputs) inputs[name] = ReadNpy(path);
  return inputs;
}

void WriteOutputs(const Signature& signature, const std::vector<Array>& outputs, const std::string& folder) {
  MakeFolder(folder);
  for (size_t i = 0; i < outputs.size(); ++i) {
    WriteNpy(folder + "/" + signature.outputs[i].name + ".npy", outputs[i]);
  }
}

void PrintLatencies(Runner* runner, const std::map<std::string, Array>& inputs, int num_calls, int num_threads) {
  Chunk timed;
  const auto latencies_ms = runner->Time(inputs, num_calls, &timed);
  std::printf("{\"p50_ms\": %.6g, \"p95_ms\": %.6g, \"num_calls\": %d, \"batch_size\": %lld, \"num_threads\": %d}\n",
              Percentile(latencies_ms, 50), Percentile(latencies_ms, 95), num_calls,
              static_cast<long long>(timed.batch_size), num_threads);
}

void RunBundle(const Options& options) {
  const Manifest manifest = Manifest::Load(options.bundle, options.function);
  manifest.CheckMachine();
  if (options.verify) manifest.CheckFiles(options.bundle);
  const int num_threads = options.num_threads ? options.num_threads : NumCores();
  ConfigureThreads(num_threads);
  const auto inputs = ReadInputs(options);
  Runner runner(options.bundle, manifest, options.batch_size);
  WriteOutputs(manifest.signature, runner.Run(inputs), options.output_dir);
  if (options.num_timed_calls > 0) PrintLatencies(&runner, inputs, options.num_timed_calls, num_threads);
}

}  // namespace
}  // namespace lab

int main(int argc, char** argv) {
  try {
    const lab::Options options = lab::ParseOptions(argc, argv);
    if (options.help) {
      std::fputs(lab::kUsageText, stdout);
      return 0;
    }
    lab::RunBundle(options);
    return 0;
  } catch (const lab::Error& error) {
    std::fprintf(stderr, "lab_run: error[%s]: %s\n", lab::KindName(error.kind()), error.what());
    return error.exit_code();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "lab_run: error[%s]: %s\n", lab::KindName(lab::Kind::kRuntime), error.what());
    return static_cast<int>(lab::Kind::kRuntime);
  }
}
