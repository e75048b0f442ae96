#include "server/page/status_page.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/sha.h>
#include <unistd.h>

#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "server/page/page_html.h"

namespace mambad::server {
namespace {

std::string MachineName() {
  char name[256] = {};
  return gethostname(name, sizeof(name) - 1) == 0 ? name : "";
}

// 'sha256-...' of what stands in the element, as a Content-Security-Policy names it.
std::string HashOf(absl::string_view element) {
  const std::string begin = absl::StrCat("<", element, ">"), end = absl::StrCat("</", element, ">");
  const size_t from = kPageHtml.find(begin) + begin.size();
  const absl::string_view text = kPageHtml.substr(from, kPageHtml.find(end, from) - from);
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest);
  return absl::StrCat("'sha256-",
                      absl::Base64Escape({reinterpret_cast<char*>(digest), sizeof(digest)}), "'");
}

// Nothing but the page's own script and style, and requests to where it came from.
std::string Policy() {
  return absl::StrCat("default-src 'none'; script-src ", HashOf("script"), "; style-src ",
                      HashOf("style"),
                      "; connect-src 'self'; base-uri 'none'; form-action 'none'; "
                      "frame-ancestors 'none'; require-trusted-types-for 'script'");
}

std::string Html(bool takes_prompts, bool asks_token) {
  return absl::StrReplaceAll(
      kPageHtml, {{"<body data-prompt=\"no\" data-token=\"no\">",
                   absl::StrCat("<body data-prompt=\"", takes_prompts ? "yes" : "no",
                                "\" data-token=\"", asks_token ? "yes" : "no", "\">")}});
}

bool IsAddress(const std::string& host) {
  in_addr four{};
  in6_addr six{};
  return inet_pton(AF_INET, host.c_str(), &four) == 1 ||
         inet_pton(AF_INET6, host.c_str(), &six) == 1;
}

// A header's "host:port" without port and brackets.
absl::string_view HostPart(absl::string_view text) {
  if (absl::StartsWith(text, "[")) return text.substr(1, text.find(']') - 1);
  return text.substr(0, text.find(':'));
}

HttpAnswer Refusal(int status, absl::string_view words) {
  return {status, "text/plain; charset=utf-8", absl::StrCat(words, "\n")};
}

HttpAnswer NotAllowed(const char* allowed) {
  HttpAnswer answer = Refusal(405, absl::StrCat("only ", allowed, " is served here"));
  answer.headers.emplace_back("Allow", allowed);
  return answer;
}

}  // namespace

StatusPage::StatusPage(std::string host, std::unique_ptr<PromptBox> box, bool asks_token)
    : host_(std::move(host)),
      machine_(MachineName()),
      box_(std::move(box)),
      html_(Html(box_ != nullptr, asks_token)),
      policy_(Policy()) {}

std::optional<HttpAnswer> StatusPage::Answer(const HttpRequest& request) const {
  if (request.path != "/" && request.path != "/generate") return std::nullopt;
  HttpAnswer answer;
  if (!IsOurs(request.Header("host"))) {
    answer = Refusal(421, "the page is served by address, as localhost, or by this machine's name");
  } else if (request.path == "/generate") {
    answer = Generate(request);
  } else if (request.method == "POST") {
    answer = NotAllowed("GET");
  } else {
    answer = {200, "text/html; charset=utf-8", html_};
    answer.headers.emplace_back("Content-Security-Policy", policy_);
  }
  for (const auto& [name, value] :
       {std::pair("Cache-Control", "no-store"), std::pair("X-Content-Type-Options", "nosniff"),
        std::pair("X-Frame-Options", "DENY"), std::pair("Referrer-Policy", "no-referrer"),
        std::pair("Cross-Origin-Opener-Policy", "same-origin"),
        std::pair("Cross-Origin-Resource-Policy", "same-origin")}) {
    answer.headers.emplace_back(name, value);
  }
  return answer;
}

bool StatusPage::IsOurs(absl::string_view host) const {
  const std::string name(HostPart(host));
  if (IsAddress(name) || absl::EqualsIgnoreCase(name, "localhost")) return true;
  return !name.empty() &&
         (absl::EqualsIgnoreCase(name, host_) || absl::EqualsIgnoreCase(name, machine_));
}

HttpAnswer StatusPage::Generate(const HttpRequest& request) const {
  if (box_ == nullptr) return Refusal(404, "prompts are not taken: metrics.page is not prompt");
  if (request.method != "POST") return NotAllowed("POST");
  // What other sites can have a browser send without asking first is of other types.
  if (!absl::StartsWithIgnoreCase(request.Header("content-type"), "application/json"))
    return Refusal(415, "expected Content-Type: application/json");
  const absl::string_view origin = request.Header("origin");
  const absl::string_view site = request.Header("sec-fetch-site");
  if ((!origin.empty() && origin != absl::StrCat("http://", request.Header("host"))) ||
      (!site.empty() && site != "same-origin")) {
    return Refusal(403, "prompts are taken from this page alone");
  }
  return box_->Answer(request);
}

}  // namespace mambad::server
