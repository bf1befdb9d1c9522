/* Run a bundle on raw arrays: what a C program needs of lab.h, from the first line to the last.
 *
 *   gcc run.c -I DIR -L DIR -llab -Wl,-rpath,DIR -Wl,-rpath-link,DIR -o run      (DIR: what lab edge wrote)
 *   ./run BUNDLE NUM_SAMPLES INPUT.raw OUTPUT.raw
 *
 * INPUT.raw holds the model's one input in C order; where a dimension varies there are NUM_SAMPLES of it. OUTPUT.raw
 * receives the first output. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "lab.h"

enum { MAX_DIMS = 16 };

static int fail(lab_model* model, lab_status status, const char* doing) {
  fprintf(stderr, "%s: %s error: %s\n", doing, lab_status_name(status), lab_error(model));
  lab_close(model);
  return status;
}

static void print_spec(const char* side, const lab_spec* spec) {
  printf("%s %s %s[", side, spec->name, spec->dtype);
  for (size_t i = 0; i < spec->num_dims; ++i) {
    if (i > 0) printf(", ");
    if (spec->symbols[i] != NULL) printf("%s", spec->symbols[i]);
    if (spec->symbols[i] == NULL) printf("%" PRId64, spec->shape[i]);
  }
  printf("]\n");
}

/* The whole file, or NULL; the caller frees it. */
static void* read_file(const char* path, size_t num_bytes) {
  FILE* file = fopen(path, "rb");
  void* data = malloc(num_bytes > 0 ? num_bytes : 1);
  if (file == NULL || data == NULL || fread(data, 1, num_bytes, file) != num_bytes || fgetc(file) != EOF) {
    fprintf(stderr, "%s does not hold exactly %zu bytes\n", path, num_bytes);
    free(data);
    data = NULL;
  }
  if (file != NULL) fclose(file);
  return data;
}

static int write_file(const char* path, const lab_tensor* tensor) {
  FILE* file = fopen(path, "wb");
  const int written = file != NULL && fwrite(tensor->data, 1, tensor->num_bytes, file) == tensor->num_bytes;
  const int closed = file != NULL && fclose(file) == 0;
  if (!written || !closed) fprintf(stderr, "%s cannot be written\n", path);
  return written && closed ? 0 : LAB_STORAGE;
}

int main(int argc, char** argv) {
  if (argc != 5) {
    fprintf(stderr, "usage: run BUNDLE NUM_SAMPLES INPUT.raw OUTPUT.raw\n");
    return LAB_USAGE;
  }
  lab_model* model;
  lab_status status = lab_open(argv[1], NULL, &model);
  if (status != LAB_OK) return fail(model, status, "opening the bundle");

  lab_spec input, output;
  if ((status = lab_input(model, 0, &input)) != LAB_OK) return fail(model, status, "asking for the input");
  if ((status = lab_output(model, 0, &output)) != LAB_OK) return fail(model, status, "asking for the output");
  print_spec("input", &input);
  print_spec("output", &output);
  if (lab_num_inputs(model) != 1 || input.num_dims > MAX_DIMS) {
    fprintf(stderr, "this example feeds models of one input\n");
    lab_close(model);
    return LAB_USAGE;
  }

  int64_t shape[MAX_DIMS];
  size_t num_bytes = sizeof(float);
  for (size_t i = 0; i < input.num_dims; ++i) {
    shape[i] = input.symbols[i] != NULL ? atoll(argv[2]) : input.shape[i];
    num_bytes *= (size_t)shape[i];
  }
  void* data = read_file(argv[3], num_bytes);
  if (data == NULL) {
    lab_close(model);
    return LAB_DATA;
  }
  status = lab_set_input(model, input.name, "float32", data, shape, input.num_dims);
  free(data); /* the model has a copy */
  if (status != LAB_OK) return fail(model, status, "setting the input");
  if ((status = lab_run(model)) != LAB_OK) return fail(model, status, "running");

  lab_tensor result;
  if ((status = lab_get_output(model, output.name, &result)) != LAB_OK) return fail(model, status, "reading the output");
  const int written = write_file(argv[4], &result);
  lab_close(model);
  return written;
}
