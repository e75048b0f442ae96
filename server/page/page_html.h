// page.html as it stands in the source, compiled in.

#ifndef MAMBAD_SERVER_PAGE_PAGE_HTML_H_
#define MAMBAD_SERVER_PAGE_PAGE_HTML_H_

#include "absl/strings/string_view.h"

namespace mambad::server {

// Of one script and one style element. Begins <body data-prompt="no" data-token="no">.
extern const absl::string_view kPageHtml;

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_PAGE_PAGE_HTML_H_
