#include "manifest.h"

#include <algorithm>
#include <filesystem>

#include "array.h"
#include "cpu.h"
#include "error.h"
#include "files.h"
#include "json.h"
#include "sha256.h"

namespace lab {
namespace {

constexpr int64_t kSchemaVersion = 3;
constexpr int64_t kOldestVersion = 2;  // knew no functions beside the one

TensorSpec ReadSpec(const Json& item) {
  TensorSpec spec;
  spec.name = item["name"].String();
  spec.dtype = item["dtype"].String();
  for (const Json& dim : item["shape"].List()) {
    spec.shape.push_back(dim.IsString() ? Dim{0, dim.String()} : Dim{dim.Int(), ""});
  }
  // The name becomes a file name in the output folder.
  if (spec.name.empty() || spec.name[0] == '.' || spec.name.find('/') != std::string::npos) {
    throw Error(Kind::kArtifact, "a tensor's name cannot be used as a file name", spec.name);
  }
  if (FindDTypeByName(spec.dtype) == nullptr) {
    throw Error(Kind::kUnsupported, "tensor '" + spec.name + "' has a dtype this runner does not know", spec.dtype);
  }
  return spec;
}

std::vector<TensorSpec> ReadSpecs(const Json& list) {
  std::vector<TensorSpec> specs;
  for (const Json& item : list.List()) specs.push_back(ReadSpec(item));
  return specs;
}

TargetInfo ReadTarget(const Json& item) {
  TargetInfo target;
  if (item.IsNull()) throw Error(Kind::kArtifact, "the manifest is incomplete or damaged", "a bundle without a target");
  target.name = item["name"].String();
  target.mcpu = item["mcpu"].String();
  target.kind = item["kind"].String();
  target.arch = item["arch"].String();
  for (const Json& feature : item["required_features"].List()) target.required_features.push_back(feature.String());
  return target;
}

std::vector<Entry> ReadEntries(const Json& list) {
  std::vector<Entry> entries;
  for (const Json& item : list.List()) {
    if (item.Has("parts") && !item["parts"].List().empty()) {
      throw Error(Kind::kUnsupported, "the bundle runs a part of the model in ONNX Runtime, which this runner lacks",
                  "an entry in parts", "a bundle compiled without --partial", "run it with lab.runtime in Python");
    }
    Entry entry{item["library"].String(), item["batch_size"].Int(), item["function"].String(),
                item.Has("level") ? item["level"].String() : ""};
    if (entry.batch_size < 0) throw Error(Kind::kArtifact, "an entry has a negative batch size", item.where());
    entries.push_back(entry);
  }
  if (entries.empty()) throw Error(Kind::kArtifact, "the bundle holds no compiled function", "entries: []");
  return entries;
}

// Of a fat bundle, whose levels are listed best first: the best that this CPU runs, else the least demanding, which
// CheckMachine then refuses. Of any other bundle its target.
TargetInfo PickLevel(const Json& root) {
  TargetInfo picked = ReadTarget(root["target"]);
  if (!root.Has("levels")) return picked;
  const auto present = CpuFeatures();
  for (const Json& item : root["levels"].List()) {
    picked = ReadTarget(item);
    const auto& needed = picked.required_features;
    if (std::all_of(needed.begin(), needed.end(), [&](const auto& name) { return present.count(name) > 0; })) break;
  }
  return picked;
}

Signature ReadSignature(const Json& item) { return {ReadSpecs(item["inputs"]), ReadSpecs(item["outputs"])}; }

// Of the whole model where it is one call, else of one function of the program.
Signature SignatureOf(const Json& root, const std::string& function) {
  std::vector<std::string> known;
  if (root.Has("functions")) known = root["functions"].Keys();
  if (known.empty()) known = {kMain};
  if (std::find(known.begin(), known.end(), function) == known.end()) {
    std::string names;
    for (const std::string& name : known) names += (names.empty() ? "" : ", ") + name;
    throw Error(Kind::kUsage, "the bundle has no such function", function, names, "--function NAME");
  }
  return ReadSignature(known == std::vector<std::string>{kMain} ? root["signature"] : root["functions"][function]);
}

std::vector<Entry> EntriesOf(const std::vector<Entry>& entries, const std::string& function,
                             const std::string& level) {
  std::vector<Entry> found;
  for (const Entry& entry : entries) {
    if (entry.function == function && (entry.level.empty() || entry.level == level)) found.push_back(entry);
  }
  if (found.empty()) throw Error(Kind::kArtifact, "the bundle holds no compiled function", "no entry of " + function);
  return found;
}

std::map<std::string, std::string> ReadFiles(const Json& object) {
  std::map<std::string, std::string> files;
  for (const std::string& name : object.Keys()) files[name] = object[name]["sha256"].String();
  return files;
}

bool IsInside(const std::filesystem::path& name) {
  return name.is_relative() && std::none_of(name.begin(), name.end(), [](const auto& part) { return part == ".."; });
}

}  // namespace

Manifest Manifest::Load(const std::string& folder, const std::string& function) {
  const Json root = Json::Parse(ReadFile(folder + "/manifest.json", Kind::kArtifact), "manifest.json");
  const int64_t version = root["schema_version"].Int();
  if (version < kOldestVersion || version > kSchemaVersion) {
    throw Error(Kind::kArtifact, "the manifest has another schema version", std::to_string(version),
                std::to_string(kSchemaVersion), "build the runner and the bundle from the same version of the lab");
  }
  const std::string kind = root["kind"].String();
  if (kind != "bundle")
    throw Error(Kind::kArtifact, folder + " is not a compiled bundle", kind, "bundle", "lab compile");
  Manifest manifest;
  manifest.name = root["name"].String();
  manifest.signature = SignatureOf(root, function);
  manifest.target = PickLevel(root);
  manifest.entries = EntriesOf(ReadEntries(root["entries"]), function, manifest.target.mcpu);
  manifest.sha256_of_file = ReadFiles(root["files"]);
  return manifest;
}

void Manifest::CheckMachine() const {
  const std::string hint = "compile for this machine, or run the bundle on the machine it was built for";
  if (target.kind != "x86" && target.kind != "arm") {
    throw Error(Kind::kIncompatible, "this runner runs CPU bundles", "target " + target.name + " (" + target.kind + ")",
                "x86 or arm", "lab predict runs CUDA bundles");
  }
  if (target.arch != CpuArch()) {
    throw Error(Kind::kIncompatible, "the bundle was built for another CPU architecture", target.arch, CpuArch(), hint);
  }
  const auto present = CpuFeatures();
  std::string lacking;
  for (const std::string& feature : target.required_features) {
    if (present.count(feature) == 0) lacking += (lacking.empty() ? "" : " ") + feature;
  }
  if (!lacking.empty()) {
    throw Error(Kind::kIncompatible, "this CPU lacks instructions the bundle was built with", "no " + lacking,
                "a CPU for target " + target.name, hint);
  }
}

void Manifest::CheckFiles(const std::string& folder) const {
  for (const Entry& entry : entries) {
    if (sha256_of_file.count(entry.library) == 0) {
      throw Error(Kind::kIntegrity, entry.library + " is not among the manifest's recorded files");
    }
  }
  for (const auto& [name, recorded] : sha256_of_file) {
    if (!IsInside(name)) throw Error(Kind::kIntegrity, "the manifest names a file outside its folder", name);
    const std::string actual = Sha256File(folder + "/" + name);
    if (actual != recorded) {
      throw Error(Kind::kIntegrity, name + " is not the file this artifact was built with", "sha256 " + actual,
                  "sha256 " + recorded,
                  "the file was changed or damaged after the build: copy or build the artifact again");
    }
  }
}

}  // namespace lab
