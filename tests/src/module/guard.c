/*
 * A module for Envoy with two filters: `word` answers 418 to whoever does not send the header x-word with the text that the
 * filter's configuration is, and `answer` answers everything by itself.
 *
 * These are the few declarations that it needs of Envoy's interface for dynamic modules as its documentation has it (1.38 to
 * 1.40). Envoy warns of a module that was not built for its very version, and takes it.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
  const char *text;
  size_t length;
} view;

enum { GO_ON = 0, STOP = 1 };
enum { REQUEST_HEADERS = 0 };

bool envoy_dynamic_module_callback_http_get_header(void *envoy, uint32_t of, view name, view *value, size_t index,
                                                   size_t *count);
void envoy_dynamic_module_callback_http_send_response(void *envoy, uint32_t status, void *headers, size_t count, view body,
                                                      view details);

typedef struct {
  bool answers;
  size_t length;
  char word[];
} config;

const char *envoy_dynamic_module_on_program_init(void) { return "a test"; }

const void *envoy_dynamic_module_on_http_filter_config_new(void *envoy, view name, view told) {
  config *made = malloc(sizeof *made + told.length);
  (void)envoy;
  if (made == NULL) return NULL;
  made->answers = name.length == 6 && memcmp(name.text, "answer", 6) == 0;
  made->length = told.length;
  memcpy(made->word, told.text, told.length);
  return made;
}

void envoy_dynamic_module_on_http_filter_config_destroy(const void *made) { free((void *)made); }

/* A filter keeps nothing of a request, so its configuration stands for it. */
const void *envoy_dynamic_module_on_http_filter_new(const void *made, void *envoy) {
  (void)envoy;
  return made;
}

int envoy_dynamic_module_on_http_filter_request_headers(void *envoy, const void *filter, bool end) {
  const config *made = filter;
  const view name = {"x-word", 6}, none = {"", 0};
  view value = {NULL, 0};
  size_t count = 0;
  (void)end;
  bool sent = envoy_dynamic_module_callback_http_get_header(envoy, REQUEST_HEADERS, name, &value, 0, &count);
  bool same = sent && value.length == made->length && memcmp(value.text, made->word, value.length) == 0;
  if (same && !made->answers) return GO_ON;
  envoy_dynamic_module_callback_http_send_response(envoy, made->answers ? 202 : 418, NULL, 0, none, none);
  return STOP;
}

/* All else goes on; Envoy looks for each of these. */
#define GOES_ON(event) \
  int envoy_dynamic_module_on_http_filter_##event(void) { return GO_ON; }
GOES_ON(request_body)
GOES_ON(request_trailers)
GOES_ON(response_headers)
GOES_ON(response_body)
GOES_ON(response_trailers)
GOES_ON(stream_complete)
GOES_ON(destroy)
GOES_ON(scheduled)
GOES_ON(http_callout_done)
GOES_ON(http_stream_headers)
GOES_ON(http_stream_data)
GOES_ON(http_stream_trailers)
GOES_ON(http_stream_complete)
GOES_ON(http_stream_reset)
GOES_ON(downstream_above_write_buffer_high_watermark)
GOES_ON(downstream_below_write_buffer_low_watermark)
