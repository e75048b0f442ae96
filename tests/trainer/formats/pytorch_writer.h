// Writes PyTorch checkpoints byte by byte from the published formats (zip, pickle protocol 2), for
// tests of the reader.

#ifndef MAMBAD_TESTS_TRAINER_FORMATS_PYTORCH_WRITER_H_
#define MAMBAD_TESTS_TRAINER_FORMATS_PYTORCH_WRITER_H_

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace mambad::trainer {

template <typename T>
std::string Raw(T value) {
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}

// A zip archive whose entries are stored, their data aligned as PyTorch's are.
class ZipWriter {
 public:
  uint16_t method = 0;  // compression
  uint16_t flags = 0;
  bool zip64 = false;  // sizes and places in 64-bit fields, whatever they are

  void Add(const std::string& name, const std::string& contents) {
    const size_t unpadded = bytes_.size() + 30 + name.size() + 4;
    const std::string padding((64 - unpadded % 64) % 64, 'Z');
    const std::string extra = "FB" + Raw(static_cast<uint16_t>(padding.size())) + padding;
    const auto size = static_cast<uint32_t>(contents.size());
    const auto place = static_cast<uint32_t>(bytes_.size());
    bytes_ += "PK\3\4" + Raw<uint16_t>(0) + Raw(flags) + Raw(method) + Raw<uint32_t>(0) +
              Raw<uint32_t>(0) + Raw(size) + Raw(size) + Raw(static_cast<uint16_t>(name.size())) +
              Raw(static_cast<uint16_t>(extra.size())) + name + extra + contents;
    std::string wide;
    if (zip64) {
      wide = Raw<uint16_t>(1) + Raw<uint16_t>(24) + Raw<uint64_t>(size) + Raw<uint64_t>(size) +
             Raw<uint64_t>(place);
    }
    const uint32_t shown_size = zip64 ? UINT32_MAX : size;
    directory_ += "PK\1\2" + Raw<uint16_t>(0) + Raw<uint16_t>(0) + Raw(flags) + Raw(method) +
                  Raw<uint32_t>(0) + Raw<uint32_t>(0) + Raw(shown_size) + Raw(shown_size) +
                  Raw(static_cast<uint16_t>(name.size())) +
                  Raw(static_cast<uint16_t>(wide.size())) + Raw<uint16_t>(0) + Raw<uint16_t>(0) +
                  Raw<uint16_t>(0) + Raw<uint32_t>(0) + Raw(zip64 ? UINT32_MAX : place) + name +
                  wide;
    ++entries_;
  }

  std::string Finish(const std::string& comment = "") const {
    std::string file = bytes_ + directory_;
    if (zip64) {
      const uint64_t record = file.size();
      file += "PK\6\6" + Raw<uint64_t>(44) + Raw<uint16_t>(45) + Raw<uint16_t>(45) +
              Raw<uint32_t>(0) + Raw<uint32_t>(0) + Raw<uint64_t>(entries_) +
              Raw<uint64_t>(entries_) + Raw<uint64_t>(directory_.size()) +
              Raw<uint64_t>(bytes_.size());
      file += "PK\6\7" + Raw<uint32_t>(0) + Raw(record) + Raw<uint32_t>(1);
    }
    const uint16_t count = zip64 ? UINT16_MAX : entries_;
    file += "PK\5\6" + Raw<uint16_t>(0) + Raw<uint16_t>(0) + Raw(count) + Raw(count) +
            Raw(zip64 ? UINT32_MAX : static_cast<uint32_t>(directory_.size())) +
            Raw(zip64 ? UINT32_MAX : static_cast<uint32_t>(bytes_.size())) +
            Raw(static_cast<uint16_t>(comment.size())) + comment;
    return file;
  }

 private:
  std::string bytes_, directory_;
  uint16_t entries_ = 0;
};

// Pickle opcodes.
inline std::string PickledText(const std::string& text) {
  return "X" + Raw(static_cast<uint32_t>(text.size())) + text;
}
inline std::string PickledNumber(int64_t number) {
  return number == static_cast<int32_t>(number) ? "J" + Raw(static_cast<int32_t>(number))
                                                : "\x8a\x08" + Raw(number);
}
inline std::string PickledTuple(const std::vector<int64_t>& numbers) {
  std::string out = "(";
  for (const int64_t number : numbers) out += PickledNumber(number);
  return out + "t";
}
inline std::string PickledClass(const std::string& module, const std::string& name) {
  return "c" + module + "\n" + name + "\n";
}
inline std::string PickledStorage(const std::string& element, const std::string& key,
                                  int64_t numbers) {
  return "(" + PickledText("storage") + PickledClass("torch", element + "Storage") +
         PickledText(key) + PickledText("cpu") + PickledNumber(numbers) + "tQ";
}
inline std::string PickledTensorOf(const std::string& storage, int64_t offset,
                                   const std::vector<int64_t>& shape,
                                   const std::vector<int64_t>& strides) {
  return PickledClass("torch._utils", "_rebuild_tensor_v2") + "(" + storage +
         PickledNumber(offset) + PickledTuple(shape) + PickledTuple(strides) + "\x89" +
         PickledClass("collections", "OrderedDict") + ")RtR";
}

// A state dictionary with a storage a tensor.
class PytorchWriter {
 public:
  std::string folder = "archive";
  ZipWriter zip;  // for its settings

  void Tensor(const std::string& name, const std::string& element,
              const std::vector<int64_t>& shape, const std::string& data) {
    std::vector<int64_t> strides(shape.size());
    int64_t numbers = 1;
    for (size_t i = shape.size(); i-- > 0;) {
      strides[i] = numbers;
      numbers *= shape[i];
    }
    View(name, element, shape, strides, 0, numbers, data);
  }
  void View(const std::string& name, const std::string& element, const std::vector<int64_t>& shape,
            const std::vector<int64_t>& strides, int64_t offset, int64_t numbers,
            const std::string& data) {
    const std::string key = std::to_string(storages_.size());
    items_ += PickledText(name) +
              PickledTensorOf(PickledStorage(element, key, numbers), offset, shape, strides);
    storages_.emplace_back(key, data);
  }
  std::string Pickle() const {
    return "\x80\x02" + PickledClass("collections", "OrderedDict") + ")R(" + items_ + "u.";
  }
  std::string Finish() const {
    ZipWriter writer = zip;
    writer.Add(folder + "/data.pkl", Pickle());
    writer.Add(folder + "/byteorder", "little");
    for (const auto& [key, data] : storages_) writer.Add(folder + "/data/" + key, data);
    writer.Add(folder + "/version", "3\n");
    return writer.Finish();
  }

 private:
  std::string items_;
  std::vector<std::pair<std::string, std::string>> storages_;
};

}  // namespace mambad::trainer

#endif  // MAMBAD_TESTS_TRAINER_FORMATS_PYTORCH_WRITER_H_
