/* Run compiled bundles from C, or from any language that calls C.
 *
 *   lab_model* model;
 *   if (lab_open("bundle", NULL, &model) != LAB_OK) fail(lab_error(model));
 *   lab_set_input(model, "image", "float32", pixels, shape, 4);
 *   lab_run(model);
 *   lab_get_output(model, "logits", &logits);
 *   lab_close(model);
 *
 * Link with -llab; beside liblab.so lie libtvm_runtime.so and libtvm_ffi.so, and nothing else is needed.
 *
 * No function throws or ends the process. Each that can fail returns a status; lab_error tells in words what failed,
 * what was got, what was expected and what to try. A model is used by one thread at a time; several models may run in
 * several threads. There is no state outside the models, save TVM's pool of threads: see lab_options.num_threads.
 */
#ifndef LAB_H_
#define LAB_H_

#include <stddef.h>
#include <stdint.h>

#if defined(LAB_BUILD)
#define LAB_API __attribute__((visibility("default")))
#else
#define LAB_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Raised when a function or struct here changes in a way that old programs notice. */
#define LAB_API_VERSION 1

/* The same numbers as the exit codes of lab_run and of the lab command. */
typedef enum lab_status {
  LAB_OK = 0,
  LAB_RUNTIME = 1,      /* the model or the machine failed */
  LAB_USAGE = 2,        /* no such function, batch size, input or output */
  LAB_DATA = 3,         /* inputs that do not fit the signature */
  LAB_ARTIFACT = 4,     /* no bundle, or a damaged one */
  LAB_INTEGRITY = 5,    /* a file is not the one the bundle was built with */
  LAB_INCOMPATIBLE = 6, /* built for another CPU */
  LAB_UNSUPPORTED = 7,
  LAB_STORAGE = 10
} lab_status;

/* One opened function of a bundle. */
typedef struct lab_model lab_model;

typedef struct lab_options {
  /* Of a program, e.g. "encode"; NULL: "main", of a model that is one call. */
  const char* function;
  /* Threads of TVM's pool; 0: every core this process may use. The pool is the process's: the first model that runs
   * decides, and lab_open sets TVM_NUM_THREADS and TVM_BIND_THREADS for it, so open the first model before other threads
   * read the environment. */
  int num_threads;
  /* Not 0: do not compare the files with the manifest's SHA-256. */
  int skip_verification;
  /* Use only what was compiled for this batch size (0: for any size). Less than 0: whatever suits the samples. */
  int64_t batch_size;
} lab_options;

#define LAB_DEFAULT_OPTIONS {NULL, 0, 0, -1}

/* What the signature says of an input or output. It lives as long as the model. */
typedef struct lab_spec {
  const char* name;
  const char* dtype; /* numpy's name: "float32", "int64", "bool", ... */
  size_t num_dims;
  const int64_t* shape;       /* -1 where a dimension varies */
  const char* const* symbols; /* the name of a dimension that varies, e.g. "batch"; NULL where it is fixed */
} lab_spec;

/* An output in C order. It lives until the next lab_run, lab_time or lab_close of its model. */
typedef struct lab_tensor {
  const char* dtype;
  size_t num_dims;
  const int64_t* shape;
  const void* data;
  size_t num_bytes;
} lab_tensor;

/* The LAB_API_VERSION the library was built with. */
LAB_API int lab_api_version(void);

/* "data", "integrity", ...; "ok". */
LAB_API const char* lab_status_name(lab_status status);

/* Open a bundle's folder: check the machine, check every file, choose the function. `options` may be NULL.
 *
 * On failure too `*model` is a model, whose lab_error tells what failed and which lab_close frees; it is NULL only
 * where there is no memory for even that. */
LAB_API lab_status lab_open(const char* bundle, const lab_options* options, lab_model** model);

/* Of the last call of this model that failed; "" before. It lives until the next call. */
LAB_API const char* lab_error(const lab_model* model);

/* Frees everything; NULL is allowed. */
LAB_API void lab_close(lab_model* model);

LAB_API size_t lab_num_inputs(const lab_model* model);
LAB_API size_t lab_num_outputs(const lab_model* model);
LAB_API lab_status lab_input(lab_model* model, size_t index, lab_spec* spec);
LAB_API lab_status lab_output(lab_model* model, size_t index, lab_spec* spec);

/* Copy an array in C order; it stays set for every later run until it is set again. The dimension "batch" may have any
 * size: the model pads and splits. lab_run checks dtypes and shapes, since they depend on each other. */
LAB_API lab_status lab_set_input(lab_model* model, const char* name, const char* dtype, const void* data,
                                 const int64_t* shape, size_t num_dims);

/* Run on the inputs. The first run of a batch size loads its library. */
LAB_API lab_status lab_run(lab_model* model);

/* An output of the last lab_run. */
LAB_API lab_status lab_get_output(lab_model* model, const char* name, lab_tensor* tensor);

/* Time `num_calls` calls of the compiled function alone on the inputs' first chunk, after three that are not counted.
 * `milliseconds` receives one figure per call, `batch_size` (may be NULL) what was timed. Outputs are lost. */
LAB_API lab_status lab_time(lab_model* model, size_t num_calls, double* milliseconds, int64_t* batch_size);

#ifdef __cplusplus
}
#endif

#endif /* LAB_H_ */
