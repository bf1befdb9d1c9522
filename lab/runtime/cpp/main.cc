// lab_run: a bundle, .npy files in, .npy files out; all it knows of models is the C API of liblab.so.
#include <cstdio>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "cpu.h"
#include "error.h"
#include "files.h"
#include "lab.h"
#include "latency.h"
#include "npy.h"
#include "options.h"

namespace lab {
namespace {

using Model = std::unique_ptr<lab_model, decltype(&lab_close)>;

// Throws the Error that a status stands for.
void Check(lab_status status, const lab_model* model) {
  if (status != LAB_OK) throw Error(static_cast<Kind>(status), lab_error(model));
}

Model Open(const Options& options) {
  const lab_options chosen{options.function.c_str(), options.num_threads, !options.verify, options.batch_size};
  lab_model* opened = nullptr;
  const lab_status status = lab_open(options.bundle.c_str(), &chosen, &opened);
  Model model(opened, &lab_close);
  Check(status, opened);
  return model;
}

void SetInputs(const Options& options, lab_model* model) {
  for (const auto& [name, path] : options.inputs) {
    const Array array = ReadNpy(path);
    Check(lab_set_input(model, name.c_str(), array.dtype->name, array.data.data(), array.shape.data(),
                        array.shape.size()),
          model);
  }
}

void WriteOutputs(lab_model* model, const std::string& folder) {
  MakeFolder(folder);
  for (size_t i = 0; i < lab_num_outputs(model); ++i) {
    lab_spec spec;
    lab_tensor tensor;
    Check(lab_output(model, i, &spec), model);
    Check(lab_get_output(model, spec.name, &tensor), model);
    const char* data = static_cast<const char*>(tensor.data);
    WriteNpy(folder + "/" + spec.name + ".npy", Array{FindDTypeByName(tensor.dtype),
                                                      {tensor.shape, tensor.shape + tensor.num_dims},
                                                      {data, data + tensor.num_bytes}});
  }
}

void PrintLatencies(lab_model* model, int num_calls, int num_threads) {
  std::vector<double> latencies_ms(static_cast<size_t>(num_calls));
  int64_t batch_size = 0;
  Check(lab_time(model, latencies_ms.size(), latencies_ms.data(), &batch_size), model);
  std::printf("{\"p50_ms\": %.6g, \"p95_ms\": %.6g, \"num_calls\": %d, \"batch_size\": %lld, \"num_threads\": %d}\n",
              Percentile(latencies_ms, 50), Percentile(latencies_ms, 95), num_calls,
              static_cast<long long>(batch_size), num_threads);
}

void RunBundle(const Options& options) {
  const Model model = Open(options);
  SetInputs(options, model.get());
  Check(lab_run(model.get()), model.get());
  WriteOutputs(model.get(), options.output_dir);
  if (options.num_timed_calls > 0) {
    PrintLatencies(model.get(), options.num_timed_calls, options.num_threads ? options.num_threads : NumCores());
  }
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
