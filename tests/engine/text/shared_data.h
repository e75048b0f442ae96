// Real vocabularies and cases that lie beside the checkout, where they do.
#ifndef MAMBAD_TESTS_ENGINE_TEXT_SHARED_DATA_H_
#define MAMBAD_TESTS_ENGINE_TEXT_SHARED_DATA_H_

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

namespace mambad::text {

inline std::string SharedDataPath(const std::string& name) {
  const char* root = std::getenv("MAMBAD_SHARED_DATA");
  return root == nullptr ? std::string() : std::string(root) + "/tokenizers/" + name;
}

// Empty when the file is not there.
inline std::string ReadSharedData(const std::string& name) {
  std::ifstream stream(SharedDataPath(name), std::ios::binary);
  std::ostringstream contents;
  contents << stream.rdbuf();
  return contents.str();
}

}  // namespace mambad::text

#define MAMBAD_SKIP_WITHOUT(contents) \
  if ((contents).empty()) GTEST_SKIP() << "shared test data not found (MAMBAD_SHARED_DATA)"

#endif  // MAMBAD_TESTS_ENGINE_TEXT_SHARED_DATA_H_
