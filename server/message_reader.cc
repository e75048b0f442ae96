#include "server/message_reader.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>
#include <grpcpp/support/slice.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/text/utf8.h"
#include "server/status_details.h"

namespace mambad::server {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::io::CodedInputStream;
using WireFormat = google::protobuf::internal::WireFormatLite;

constexpr int kDeepest = 32;  // messages in messages; ours have four

// Walks the bytes of a message along its description, without building anything.
class Walk {
 public:
  Walk(absl::string_view bytes, const EntryLimits& limits)
      : bytes_(bytes),
        input_(reinterpret_cast<const uint8_t*>(bytes.data()), static_cast<int>(bytes.size())),
        limits_(limits) {
    input_.SetRecursionLimit(kDeepest);
    input_.PushLimit(static_cast<int>(bytes.size()));  // what claims to go on beyond is refused
  }

  absl::Status Check(const Descriptor& type) {
    const bool whole = CheckMessage(type, "");
    for (const auto& [field, entries] : entries_) {
      if (entries.count > entries.most) {
        violations_.Add(
            entries.path,
            absl::StrCat(entries.count, " entries given, allowed at most ", entries.most));
      }
    }
    if (!violations_.empty()) return violations_.ToStatus();
    if (whole) return absl::OkStatus();
    if (unknown_ > kMostUnknownFields) {
      return absl::InvalidArgumentError(absl::StrCat("the request has more than ",
                                                     kMostUnknownFields,
                                                     " fields that this server does not know"));
    }
    return absl::InvalidArgumentError(
        absl::StrCat("the request is no ", type.full_name(), ": its bytes make no sense at byte ",
                     input_.CurrentPosition(), " of ", bytes_.size()));
  }

 private:
  struct Entries {
    std::string path;
    int64_t most = 0, count = 0;
  };

  // False: the bytes are no message.
  bool CheckMessage(const Descriptor& type, const std::string& path) {
    for (;;) {
      const uint32_t tag = input_.ReadTag();
      if (tag == 0) return input_.ConsumedEntireMessage();
      const FieldDescriptor* field = type.FindFieldByNumber(WireFormat::GetTagFieldNumber(tag));
      const bool delimited =
          WireFormat::GetTagWireType(tag) == WireFormat::WIRETYPE_LENGTH_DELIMITED;
      if (field == nullptr || !IsOf(*field, tag)) {
        if (!SkipUnknown(tag)) return false;
      } else if (delimited && field->type() == FieldDescriptor::TYPE_STRING) {
        if (!CheckText(*field, path)) return false;
      } else if (delimited && field->type() == FieldDescriptor::TYPE_MESSAGE) {
        if (!CheckPart(*field, path)) return false;
      } else if (!WireFormat::SkipField(&input_, tag)) {
        return false;
      }
    }
  }

  // Whether protobuf takes what comes with this tag as the field's. Anything else of its number it
  // keeps among the unknown fields.
  static bool IsOf(const FieldDescriptor& field, uint32_t tag) {
    const WireFormat::WireType type = WireFormat::GetTagWireType(tag);
    return type ==
               WireFormat::WireTypeForFieldType(static_cast<WireFormat::FieldType>(field.type())) ||
           (field.is_packable() && type == WireFormat::WIRETYPE_LENGTH_DELIMITED);
  }

  // With all that is in it, where it is a group.
  bool SkipUnknown(uint32_t tag) {
    if (++unknown_ > kMostUnknownFields) return false;
    if (WireFormat::GetTagWireType(tag) != WireFormat::WIRETYPE_START_GROUP)
      return WireFormat::SkipField(&input_, tag);
    if (!input_.IncrementRecursionDepth()) return false;
    const uint32_t end =
        WireFormat::MakeTag(WireFormat::GetTagFieldNumber(tag), WireFormat::WIRETYPE_END_GROUP);
    for (uint32_t inner = input_.ReadTag(); inner != end; inner = input_.ReadTag()) {
      if (inner == 0 || !SkipUnknown(inner)) return false;
    }
    input_.DecrementRecursionDepth();
    return true;
  }

  // Counts an entry of a repeated field. False: it is one too many, and only its number matters.
  bool Count(const FieldDescriptor& field, const std::string& path, std::string* name) {
    *name = absl::StrCat(path, path.empty() ? "" : ".", field.name());
    if (!field.is_repeated()) return true;
    Entries& entries = entries_[&field];
    if (entries.count == 0) {
      const auto limit = limits_.find(field.full_name());
      entries.path = *name;
      entries.most = limit == limits_.end() ? kMostEntries : limit->second;
    }
    if (!field.is_map()) absl::StrAppend(name, "[", entries.count, "]");
    return ++entries.count <= entries.most;
  }

  bool CheckText(const FieldDescriptor& field, const std::string& path) {
    uint32_t length = 0;
    if (!input_.ReadVarint32(&length)) return false;
    if (static_cast<int64_t>(length) > input_.BytesUntilLimit()) return false;
    const void* data = nullptr;
    int available = 0;
    if (length > 0 && !input_.GetDirectBufferPointer(&data, &available)) return false;
    std::string name;
    if (Count(field, path, &name)) {
      const absl::Status valid = text::CheckUtf8({static_cast<const char*>(data), length});
      if (!valid.ok()) violations_.Add(name, valid.message());
    }
    return input_.Skip(static_cast<int>(length));
  }

  bool CheckPart(const FieldDescriptor& field, const std::string& path) {
    uint32_t length = 0;
    if (!input_.ReadVarint32(&length)) return false;
    if (static_cast<int64_t>(length) > input_.BytesUntilLimit()) return false;
    std::string name;
    if (!Count(field, path, &name)) return input_.Skip(static_cast<int>(length));
    const auto [limit, depth_left] =
        input_.IncrementRecursionDepthAndPushLimit(static_cast<int>(length));
    return depth_left >= 0 && CheckMessage(*field.message_type(), name) &&
           input_.DecrementRecursionDepthAndPopLimit(limit);
  }

  const absl::string_view bytes_;
  CodedInputStream input_;
  const EntryLimits& limits_;
  std::map<const FieldDescriptor*, Entries> entries_;
  int64_t unknown_ = 0;
  FieldViolations violations_;
};

}  // namespace

absl::Status ReadMessage(grpc::ByteBuffer* bytes, const EntryLimits& limits,
                         google::protobuf::Message* message) {
  grpc::Slice slice;
  if (bytes->Valid() && !bytes->TrySingleSlice(&slice).ok() &&
      !bytes->DumpToSingleSlice(&slice).ok())
    return absl::InternalError("the request's bytes cannot be read");
  bytes->Clear();
  const absl::string_view all(reinterpret_cast<const char*>(slice.begin()), slice.size());
  if (absl::Status status = Walk(all, limits).Check(*message->GetDescriptor()); !status.ok())
    return status;
  if (message->ParseFromArray(all.data(), static_cast<int>(all.size()))) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the request is no ", message->GetDescriptor()->full_name()));
}

}  // namespace mambad::server
