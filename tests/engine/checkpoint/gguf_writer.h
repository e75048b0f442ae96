// Writes GGUF files byte by byte from the published format, for tests of the reader.

#ifndef MAMBAD_TESTS_ENGINE_CHECKPOINT_GGUF_WRITER_H_
#define MAMBAD_TESTS_ENGINE_CHECKPOINT_GGUF_WRITER_H_

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace mambad::checkpoint {

// The format's value types, by number.
enum GgufType : uint32_t {
  kGgufUint8 = 0,
  kGgufInt8,
  kGgufUint16,
  kGgufInt16,
  kGgufUint32,
  kGgufInt32,
  kGgufFloat32,
  kGgufBool,
  kGgufString,
  kGgufArray,
  kGgufUint64,
  kGgufInt64,
  kGgufFloat64
};

template <typename T>
std::string Raw(T value) {
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}
inline std::string RawString(const std::string& text) { return Raw<uint64_t>(text.size()) + text; }

class GgufWriter {
 public:
  uint32_t version = 3;
  uint64_t alignment =
      32;  // of the data; say so with Number("general.alignment", ...) when it is another

  void Value(const std::string& key, uint32_t type, const std::string& bytes) {
    values_ += RawString(key) + Raw(type) + bytes;
    ++value_count_;
  }
  void Number(const std::string& key, uint32_t number) { Value(key, kGgufUint32, Raw(number)); }
  void Float(const std::string& key, float number) { Value(key, kGgufFloat32, Raw(number)); }
  void Flag(const std::string& key, bool flag) {
    Value(key, kGgufBool, std::string(1, flag ? '\1' : '\0'));
  }
  void Text(const std::string& key, const std::string& text) {
    Value(key, kGgufString, RawString(text));
  }
  void Texts(const std::string& key, const std::vector<std::string>& texts) {
    std::string bytes = Raw<uint32_t>(kGgufString) + Raw<uint64_t>(texts.size());
    for (const std::string& text : texts) bytes += RawString(text);
    Value(key, kGgufArray, bytes);
  }
  template <typename T>
  void Numbers(const std::string& key, uint32_t type, const std::vector<T>& numbers) {
    std::string bytes = Raw<uint32_t>(type) + Raw<uint64_t>(numbers.size());
    for (T number : numbers) bytes += Raw(number);
    Value(key, kGgufArray, bytes);
  }

  // `dimensions` as the file has them: the one that runs fastest first. Data are padded to the
  // alignment.
  void Tensor(const std::string& name, const std::vector<uint64_t>& dimensions, uint32_t type,
              const std::string& data) {
    data_.resize((data_.size() + alignment - 1) / alignment * alignment, '\0');
    Entry(name, dimensions, type, data_.size());
    data_ += data;
  }
  void Entry(const std::string& name, const std::vector<uint64_t>& dimensions, uint32_t type,
             uint64_t offset) {
    entries_ += RawString(name) + Raw(static_cast<uint32_t>(dimensions.size()));
    for (uint64_t size : dimensions) entries_ += Raw(size);
    entries_ += Raw(type) + Raw(offset);
    ++entry_count_;
  }
  void Float32(const std::string& name, const std::vector<uint64_t>& dimensions,
               const std::vector<float>& values) {
    Tensor(
        name, dimensions, 0,
        std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)));
  }

  std::string Finish() const {
    std::string file =
        "GGUF" + Raw(version) + Raw(entry_count_) + Raw(value_count_) + values_ + entries_;
    file.resize((file.size() + alignment - 1) / alignment * alignment, '\0');
    return file + data_;
  }

 private:
  std::string values_, entries_, data_;
  uint64_t value_count_ = 0, entry_count_ = 0;
};

}  // namespace mambad::checkpoint

#endif  // MAMBAD_TESTS_ENGINE_CHECKPOINT_GGUF_WRITER_H_
