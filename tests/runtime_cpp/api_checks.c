/* The promises of lab.h that need a caller in C; prints the first that does not hold. Called by test_c_api.py. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lab.h"

#define CHECK(condition)                                                                \
  do {                                                                                  \
    if (!(condition)) {                                                                 \
      fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition);         \
      exit(1);                                                                          \
    }                                                                                   \
  } while (0)

static const int64_t kShape[] = {2, 3, 11, 13};
enum { NUM_PIXELS = 2 * 3 * 11 * 13, NUM_LOGITS = 2 * 5 };
static float pixels[NUM_PIXELS];

static lab_model* open_model(const char* bundle) {
  lab_model* model = NULL;
  CHECK(lab_open(bundle, NULL, &model) == LAB_OK);
  CHECK(strcmp(lab_error(model), "") == 0);
  return model;
}

static void check_failed_open(const char* bundle) {
  lab_model* model = NULL;
  CHECK(lab_open("no such folder", NULL, &model) == LAB_ARTIFACT);
  CHECK(strstr(lab_error(model), "manifest.json cannot be read") != NULL);
  lab_spec spec;
  CHECK(lab_num_inputs(model) == 0 && lab_input(model, 0, &spec) == LAB_USAGE);
  CHECK(lab_run(model) == LAB_USAGE && strstr(lab_error(model), "not open") != NULL);
  lab_close(model);

  CHECK(lab_open(NULL, NULL, &model) == LAB_USAGE);
  CHECK(strstr(lab_error(model), "path is NULL") != NULL);
  lab_close(model);

  lab_options options = LAB_DEFAULT_OPTIONS;
  options.function = "decode";
  CHECK(lab_open(bundle, &options, &model) == LAB_USAGE && strstr(lab_error(model), "decode") != NULL);
  lab_close(model);
  options = (lab_options)LAB_DEFAULT_OPTIONS;
  options.batch_size = 8;
  CHECK(lab_open(bundle, &options, &model) == LAB_USAGE && strstr(lab_error(model), "1, 3") != NULL);
  lab_close(model);
  options = (lab_options)LAB_DEFAULT_OPTIONS;
  options.num_threads = -1;
  CHECK(lab_open(bundle, &options, &model) == LAB_USAGE && strstr(lab_error(model), "negative") != NULL);
  lab_close(model);

  CHECK(lab_open(bundle, NULL, NULL) == LAB_USAGE);
  CHECK(lab_run(NULL) == LAB_USAGE && strlen(lab_error(NULL)) > 0 && lab_num_outputs(NULL) == 0);
  lab_close(NULL);
}

static void check_signature(lab_model* model) {
  lab_spec spec;
  CHECK(lab_num_inputs(model) == 1 && lab_num_outputs(model) == 1);
  CHECK(lab_input(model, 0, &spec) == LAB_OK);
  CHECK(strcmp(spec.name, "image") == 0 && strcmp(spec.dtype, "float32") == 0 && spec.num_dims == 4);
  CHECK(spec.shape[0] == -1 && strcmp(spec.symbols[0], "batch") == 0);
  CHECK(spec.shape[3] == 13 && spec.symbols[3] == NULL);
  CHECK(lab_output(model, 0, &spec) == LAB_OK && strcmp(spec.name, "logits") == 0 && spec.shape[1] == 5);
  CHECK(lab_output(model, 1, &spec) == LAB_USAGE && strstr(lab_error(model), "less than 1") != NULL);
  CHECK(lab_input(model, 0, NULL) == LAB_USAGE);
}

static void check_bad_inputs(lab_model* model) {
  lab_tensor tensor;
  CHECK(lab_run(model) == LAB_DATA && strstr(lab_error(model), "input names") != NULL);
  CHECK(lab_get_output(model, "logits", &tensor) == LAB_USAGE && strstr(lab_error(model), "lab_run first") != NULL);
  CHECK(lab_set_input(model, "picture", "float32", pixels, kShape, 4) == LAB_DATA);
  CHECK(strstr(lab_error(model), "picture") != NULL && strstr(lab_error(model), "image") != NULL);
  CHECK(lab_set_input(model, "image", "real", pixels, kShape, 4) == LAB_DATA);
  CHECK(lab_set_input(model, "image", NULL, pixels, kShape, 4) == LAB_DATA);
  CHECK(lab_set_input(model, NULL, "float32", pixels, kShape, 4) == LAB_DATA);
  CHECK(lab_set_input(model, "image", "float32", NULL, kShape, 4) == LAB_USAGE);
  CHECK(lab_set_input(model, "image", "float32", pixels, NULL, 4) == LAB_USAGE);
  const int64_t negative[] = {-1, 3, 11, 13}, huge[] = {INT64_MAX, INT64_MAX}, flat[] = {NUM_PIXELS};
  CHECK(lab_set_input(model, "image", "float32", pixels, negative, 4) == LAB_DATA);
  CHECK(lab_set_input(model, "image", "float32", pixels, huge, 2) == LAB_DATA);
  CHECK(lab_set_input(model, "image", "int32", pixels, kShape, 4) == LAB_OK);
  CHECK(lab_run(model) == LAB_DATA && strstr(lab_error(model), "wrong dtype") != NULL);
  CHECK(lab_set_input(model, "image", "float32", pixels, flat, 1) == LAB_OK);
  CHECK(lab_run(model) == LAB_DATA && strstr(lab_error(model), "number of dimensions") != NULL);
}

static void run(lab_model* model, float* logits) {
  lab_tensor tensor;
  CHECK(lab_run(model) == LAB_OK);
  CHECK(lab_get_output(model, "logits", &tensor) == LAB_OK);
  CHECK(strcmp(tensor.dtype, "float32") == 0 && tensor.num_dims == 2 && tensor.shape[0] == 2 && tensor.shape[1] == 5);
  CHECK(tensor.num_bytes == NUM_LOGITS * sizeof(float));
  memcpy(logits, tensor.data, tensor.num_bytes);
}

/* What was set stays set, and the model goes on after its errors. */
static void check_runs(lab_model* model, float* logits) {
  float again[NUM_LOGITS];
  lab_tensor tensor;
  CHECK(lab_set_input(model, "image", "float32", pixels, kShape, 4) == LAB_OK);
  run(model, logits);
  run(model, again);
  CHECK(memcmp(logits, again, sizeof(again)) == 0);
  CHECK(lab_get_output(model, "boxes", &tensor) == LAB_USAGE && lab_get_output(model, "logits", NULL) == LAB_USAGE);
  double milliseconds[4] = {0};
  int64_t batch_size = 0;
  /* Two samples are two calls of one rather than one of three. */
  CHECK(lab_time(model, 4, milliseconds, &batch_size) == LAB_OK && batch_size == 1);
  for (int i = 0; i < 4; ++i) CHECK(milliseconds[i] > 0 && milliseconds[i] < 1e4);
  CHECK(lab_time(model, 4, NULL, NULL) == LAB_USAGE);
}

typedef struct {
  const char* bundle;
  float logits[NUM_LOGITS];
} task;

static void* in_a_thread(void* argument) {
  task* mine = argument;
  lab_model* model = open_model(mine->bundle);
  CHECK(lab_set_input(model, "image", "float32", pixels, kShape, 4) == LAB_OK);
  for (int i = 0; i < 20; ++i) run(model, mine->logits);
  lab_close(model);
  return NULL;
}

static void check_threads(const char* bundle, const float* expected) {
  enum { NUM_THREADS = 4 };
  pthread_t threads[NUM_THREADS];
  task tasks[NUM_THREADS];
  for (int i = 0; i < NUM_THREADS; ++i) {
    tasks[i].bundle = bundle;
    CHECK(pthread_create(&threads[i], NULL, in_a_thread, &tasks[i]) == 0);
  }
  for (int i = 0; i < NUM_THREADS; ++i) {
    CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(memcmp(tasks[i].logits, expected, sizeof(tasks[i].logits)) == 0);
  }
}

int main(int argc, char** argv) {
  float logits[NUM_LOGITS];
  CHECK(argc == 2);
  CHECK(lab_api_version() == LAB_API_VERSION);
  CHECK(strcmp(lab_status_name(LAB_INTEGRITY), "integrity") == 0 && strcmp(lab_status_name(LAB_OK), "ok") == 0);
  for (int i = 0; i < NUM_PIXELS; ++i) pixels[i] = (float)(i % 17) - 8.0f;
  check_failed_open(argv[1]);
  lab_model* model = open_model(argv[1]);
  check_signature(model);
  check_bad_inputs(model);
  check_runs(model, logits);
  check_threads(argv[1], logits);
  lab_close(model);
  return 0;
}
