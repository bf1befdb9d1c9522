/* What the edge runtime holds in memory: benchmarks/footprint.py builds and calls this.
 *
 *   footprint BUNDLE [INPUT_NAME DIM DIM DIM DIM]
 *
 * Prints one JSON object of kilobytes: resident before, after loading and one run, and at most. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lab.h"

/* A figure of /proc/self/status in kilobytes. */
static long status_kb(const char* name) {
  char line[256];
  long found = -1;
  FILE* file = fopen("/proc/self/status", "r");
  if (file == NULL) return found;
  while (fgets(line, sizeof(line), file) != NULL) {
    if (strncmp(line, name, strlen(name)) == 0) found = atol(line + strlen(name) + 1);
  }
  fclose(file);
  return found;
}

static int fail(lab_model* model) {
  fprintf(stderr, "%s\n", lab_error(model));
  lab_close(model);
  return 1;
}

int main(int argc, char** argv) {
  if (argc != 7) return 2;
  const long before = status_kb("VmRSS");
  lab_options options = LAB_DEFAULT_OPTIONS;
  options.num_threads = 2;
  lab_model* model;
  if (lab_open(argv[1], &options, &model) != LAB_OK) return fail(model);
  int64_t shape[4];
  size_t num_floats = 1;
  for (int i = 0; i < 4; ++i) num_floats *= (size_t)(shape[i] = atoll(argv[3 + i]));
  float* data = calloc(num_floats, sizeof(float));
  if (data == NULL || lab_set_input(model, argv[2], "float32", data, shape, 4) != LAB_OK) return fail(model);
  free(data);
  if (lab_run(model) != LAB_OK) return fail(model);
  const long ran = status_kb("VmRSS");
  printf("{\"before\": %ld, \"after\": %ld, \"anonymous\": %ld, \"most\": %ld}\n", before, ran, status_kb("RssAnon"),
         status_kb("VmHWM"));
  lab_close(model);
  return 0;
}
