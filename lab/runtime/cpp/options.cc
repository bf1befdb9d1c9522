#include "options.h"

#include <cstdlib>
#include <functional>

#include "error.h"

namespace lab {

const char kUsageText[] =
    R"(lab_run: run a compiled bundle with the TVM runtime alone

  lab_run BUNDLE --input NAME=FILE.npy [--input ...] --output-dir DIR [options]

  --input NAME=FILE.npy  one per input of the bundle's signature; the first dimension may hold any number of samples
  --output-dir DIR       where one NAME.npy per output is written
  --function NAME        of a program, e.g. encode or step; default: main, of a model that is one call
  --time N               after that, call the model N times and print latencies as JSON
  --batch B              use the function compiled for batch size B (0: the one for any size)
  --threads N            threads of the model; default: every core this process may use
  --no-verify            do not compare the files with the manifest's SHA-256

exit codes: 1 runtime, 2 usage, 3 data, 4 artifact, 5 integrity, 6 incompatible machine, 7 unsupported, 10 storage
)";

namespace {

[[noreturn]] void Usage(const std::string& what, const std::string& got = "", const std::string& expected = "") {
  throw Error(Kind::kUsage, what, got, expected, "lab_run --help");
}

int64_t ParseNumber(const std::string& option, const std::string& text, int64_t least) {
  char* end = nullptr;
  const int64_t value = std::strtoll(text.c_str(), &end, 10);
  if (text.empty() || *end != '\0' || value < least || value > 1000000000) {
    Usage(option + " needs a number", text, std::to_string(least) + " or more");
  }
  return value;
}

void AddInput(Options* options, const std::string& text) {
  const size_t separator = text.find('=');
  if (separator == std::string::npos || separator == 0) Usage("--input is malformed", text, "NAME=FILE.npy");
  if (!options->inputs.emplace(text.substr(0, separator), text.substr(separator + 1)).second) {
    Usage("an input is given twice", text.substr(0, separator));
  }
}

void CheckComplete(const Options& options) {
  if (options.help) return;
  if (options.bundle.empty()) Usage("no bundle is given");
  if (options.output_dir.empty()) Usage("--output-dir is missing");
}

}  // namespace

Options ParseOptions(int argc, char** argv) {
  Options options;
  const std::map<std::string, std::function<void(const std::string&)>> with_value = {
      {"--input", [&](const std::string& text) { AddInput(&options, text); }},
      {"--output-dir", [&](const std::string& text) { options.output_dir = text; }},
      {"--function", [&](const std::string& text) { options.function = text; }},
      {"--time",
       [&](const std::string& text) { options.num_timed_calls = static_cast<int>(ParseNumber("--time", text, 1)); }},
      {"--batch", [&](const std::string& text) { options.batch_size = ParseNumber("--batch", text, 0); }},
      {"--threads",
       [&](const std::string& text) { options.num_threads = static_cast<int>(ParseNumber("--threads", text, 1)); }},
  };
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const auto option = with_value.find(argument);
    if (option != with_value.end()) {
      if (i + 1 == argc) Usage(argument + " needs a value");
      option->second(argv[++i]);
    } else if (argument == "--no-verify") {
      options.verify = false;
    } else if (argument == "--help" || argument == "-h") {
      options.help = true;
    } else if (argument[0] == '-' || !options.bundle.empty()) {
      Usage("unknown argument", argument);
    } else {
      options.bundle = argument;
    }
  }
  CheckComplete(options);
  return options;
}

}  // namespace lab
