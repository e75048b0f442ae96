// The page that the metrics endpoint shows to browsers, and who may see it.
//
// A browser lets any site that its user visits send requests here. So the page is told only to
// those that reached it by an address or a name of this machine (a name of another's choosing may
// have been turned to this address since: DNS rebinding), and prompts are taken only from the page
// itself.

#ifndef MAMBAD_SERVER_PAGE_STATUS_PAGE_H_
#define MAMBAD_SERVER_PAGE_STATUS_PAGE_H_

#include <memory>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "server/network/http_endpoint.h"
#include "server/page/prompt_box.h"

namespace mambad::server {

// Bytes of a prompt's request.
inline constexpr size_t kMostPromptBytes = 64 << 10;

// Thread-safe once made.
class StatusPage {
 public:
  // `host`: what the endpoint listens on, which may be a name. `box` nullptr: prompts are not
  // taken. `asks_token`: the box asks for one.
  StatusPage(std::string host, std::unique_ptr<PromptBox> box, bool asks_token);

  bool takes_prompts() const { return box_ != nullptr; }

  // "/" (GET, HEAD) and "/generate" (POST, PromptBox::Answer); nothing: it is no path of the
  // page's.
  std::optional<HttpAnswer> Answer(const HttpRequest& request) const;

 private:
  bool IsOurs(absl::string_view host) const;
  HttpAnswer Generate(const HttpRequest& request) const;

  const std::string host_, machine_;
  const std::unique_ptr<PromptBox> box_;
  const std::string html_;
  const std::string policy_;  // Content-Security-Policy
};

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_PAGE_STATUS_PAGE_H_
