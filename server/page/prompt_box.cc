#include "server/page/prompt_box.h"

#include <google/protobuf/util/json_util.h>
#include <grpc/support/time.h>
#include <grpcpp/client_context.h>
#include <grpcpp/support/client_callback.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "server/network_thread.h"
#include "server/status_details.h"

namespace mambad::server {
namespace {

std::string ErrorLine(absl::StatusCode code, absl::string_view message) {
  const nlohmann::ordered_json line = {
      {"error", {{"code", std::string(CodeName(code))}, {"message", std::string(message)}}}};
  return line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

HttpAnswer Refusal(int status, absl::StatusCode code, absl::string_view message) {
  return {status, "application/json", ErrorLine(code, message)};
}

std::string Line(const v1::GenerateResponse& response) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  std::string line;
  const auto status = google::protobuf::util::MessageToJsonString(response, &line, options);
  return status.ok() ? line + "\n" : ErrorLine(absl::StatusCode::kInternal, status.ToString());
}

// gRPC ends the process over metadata that may not be sent.
bool MayBeSent(absl::string_view value) {
  return std::all_of(value.begin(), value.end(),
                     [](char c) { return absl::ascii_isprint(static_cast<unsigned char>(c)); });
}

}  // namespace

// From Start until gRPC has done with it, when it leaves the box. gRPC calls one method at a time;
// Cancel is thread-safe.
class PromptBox::Call final : public grpc::ClientReadReactor<v1::GenerateResponse>,
                              public std::enable_shared_from_this<Call> {
 public:
  Call(PromptBox* box, v1::GenerateRequest request)
      : box_(box),
        request_(std::move(request)),
        stream_(std::make_shared<HttpStream>(box->limits_.unread_bytes)) {}

  void Start(absl::string_view authorization) {
    self_ = shared_from_this();
    context_.set_deadline(gpr_time_add(
        gpr_now(GPR_CLOCK_MONOTONIC),
        gpr_time_from_millis(absl::ToInt64Milliseconds(box_->limits_.deadline), GPR_TIMESPAN)));
    if (!authorization.empty()) context_.AddMetadata("authorization", std::string(authorization));
    box_->stub_->async()->Generate(&context_, &request_, this);
    StartRead(&response_);
    GiveToNetwork(this);
    StartCall();
  }

  void Cancel() { context_.TryCancel(); }
  const std::shared_ptr<HttpStream>& stream() const { return stream_; }

  void OnReadDone(bool ok) override {
    NetworkCallback callback(this);
    if (!ok) return;
    if (!stream_->Write(Line(response_))) Cancel();
    StartRead(&response_);
  }

  void OnDone(const grpc::Status& status) override {
    TakeFromNetwork(this);
    if (!status.ok()) {
      stream_->Write(
          ErrorLine(static_cast<absl::StatusCode>(status.error_code()), status.error_message()));
    }
    stream_->End();
    const std::shared_ptr<Call> last_share = std::move(self_);
    box_->Leave();  // which may be gone from now on
  }

 private:
  PromptBox* const box_;
  const v1::GenerateRequest request_;
  const std::shared_ptr<HttpStream> stream_;
  grpc::ClientContext context_;
  v1::GenerateResponse response_;  // what is being read
  std::shared_ptr<Call> self_;     // gRPC's share of the ownership
};

PromptBox::PromptBox(const std::shared_ptr<grpc::Channel>& channel, const PromptBoxLimits& limits)
    : limits_(limits), stub_(v1::Generation::NewStub(channel)) {}

PromptBox::~PromptBox() {
  std::vector<std::weak_ptr<Call>> running;
  {
    MutexLock lock(&mutex_);
    closed_ = true;
    running = running_;
  }
  for (const std::weak_ptr<Call>& weak : running) {
    if (const auto call = weak.lock()) call->Cancel();
  }
  MutexLock lock(&mutex_);
  while (calls_ > 0) none_.Wait(&mutex_);
}

HttpAnswer PromptBox::Answer(const HttpRequest& request) {
  v1::GenerateRequest message;
  const auto parsed = google::protobuf::util::JsonStringToMessage(request.body, &message);
  if (!parsed.ok()) {
    return Refusal(
        400, absl::StatusCode::kInvalidArgument,
        absl::StrCat("expected a GenerateRequest as JSON: ",
                     absl::string_view(parsed.message().data(), parsed.message().size())));
  }
  const absl::string_view authorization = request.Header("authorization");
  if (!MayBeSent(authorization)) {
    return Refusal(400, absl::StatusCode::kInvalidArgument,
                   "Authorization: expected printable characters of ASCII");
  }
  if (!Enter()) {
    return Refusal(429, absl::StatusCode::kResourceExhausted,
                   absl::StrCat("the page answers ", limits_.calls, " prompts at a time"));
  }
  const auto call = std::make_shared<Call>(this, std::move(message));
  {
    MutexLock lock(&mutex_);
    running_.push_back(call);
  }
  HttpAnswer answer = {200, "application/x-ndjson", ""};
  answer.stream = call->stream();
  answer.stream->OnAbandoned([weak = std::weak_ptr<Call>(call)] {
    if (const auto abandoned = weak.lock()) abandoned->Cancel();
  });
  call->Start(authorization);
  return answer;
}

bool PromptBox::Enter() {
  MutexLock lock(&mutex_);
  if (closed_ || calls_ >= limits_.calls) return false;
  running_.erase(std::remove_if(running_.begin(), running_.end(),
                                [](const auto& call) { return call.expired(); }),
                 running_.end());
  ++calls_;
  return true;
}

void PromptBox::Leave() {
  MutexLock lock(&mutex_);
  if (--calls_ == 0) none_.NotifyAll();
}

}  // namespace mambad::server
