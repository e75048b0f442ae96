// A folder of a test's own, gone with the object.

#ifndef MAMBAD_TESTS_ENGINE_CHECKPOINT_TEST_DIRECTORY_H_
#define MAMBAD_TESTS_ENGINE_CHECKPOINT_TEST_DIRECTORY_H_

#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

namespace mambad::checkpoint {

class TestDirectory {
 public:
  TestDirectory() {
    std::string pattern =
        (std::filesystem::temp_directory_path() / "mambad_checkpoint_XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~TestDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

  void Write(const std::string& name, const std::string& bytes) const {
    std::ofstream(*this / name, std::ios::binary) << bytes;
  }
  std::string Read(const std::string& name) const {
    std::ifstream file(*this / name, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  }

 private:
  std::string path_;
};

}  // namespace mambad::checkpoint

#endif  // MAMBAD_TESTS_ENGINE_CHECKPOINT_TEST_DIRECTORY_H_
