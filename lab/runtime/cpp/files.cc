#include "files.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace lab {

std::string ReadFile(const std::string& path, Kind kind) {
  std::error_code ignored;
  std::ifstream file(path, std::ios::binary);
  if (!file || std::filesystem::is_directory(path, ignored)) {
    throw Error(kind, path + " cannot be read", std::strerror(errno ? errno : EISDIR));
  }
  std::string bytes;
  bytes.resize(std::filesystem::file_size(path, ignored));
  file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (file.gcount() != static_cast<std::streamsize>(bytes.size())) {
    throw Error(kind, path + " cannot be read", "it ends after " + std::to_string(file.gcount()) + " bytes");
  }
  return bytes;
}

void WriteFileAtomically(const std::string& path, const std::string& bytes) {
  const std::string temporary = path + ".tmp";
  {
    std::ofstream file(temporary, std::ios::binary | std::ios::trunc);
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    file.flush();
    if (!file) {
      const std::string reason = std::strerror(errno);
      std::error_code ignored;
      std::filesystem::remove(temporary, ignored);
      throw Error(Kind::kStorage, "writing " + path + " failed", reason, "",
                  "free disk space or choose another folder");
    }
  }
  std::error_code error;
  std::filesystem::rename(temporary, path, error);
  if (error) throw Error(Kind::kStorage, "writing " + path + " failed", error.message());
}

void MakeFolder(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) throw Error(Kind::kStorage, "creating " + path + " failed", error.message());
}

}  // namespace lab
