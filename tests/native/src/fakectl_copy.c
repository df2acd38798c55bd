/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copies the whole store to a file and back, so that a test can restart xenstored and restore its store. The file is a
 * sequence of nodes, parents first: path, permissions and value, each after its length.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xenstore.h>

#include "fakectl.h"

static int complain(const char *what, const char *thing)
{
    fprintf(stderr, "Cannot %s %s: %s\n", what, thing, strerror(errno));
    return -1;
}

static void put_block(FILE *file, const void *bytes, uint32_t length)
{
    fwrite(&length, sizeof length, 1, file);
    fwrite(bytes, 1, length, file);
}

/* Reads a block and appends a zero byte. The caller frees it. Returns NULL at the end of the file. */
static void *get_block(FILE *file, uint32_t *length)
{
    if (fread(length, sizeof *length, 1, file) != 1) return NULL;
    char *bytes = calloc(1, (size_t)*length + 1);
    if (bytes == NULL || fread(bytes, 1, *length, file) == *length) return bytes;
    free(bytes);
    return NULL;
}

static void save_node(struct xs_handle *xs, FILE *file, const char *path)
{
    unsigned int length = 0, permission_count = 0, child_count = 0;
    void *value = xs_read(xs, XBT_NULL, path, &length);
    struct xs_permissions *permissions = xs_get_permissions(xs, XBT_NULL, path, &permission_count);
    if (value != NULL && permissions != NULL && strcmp(path, "/") != 0) {
        put_block(file, path, strlen(path));
        put_block(file, permissions, permission_count * sizeof *permissions);
        put_block(file, value, length);
    }
    free(value);
    free(permissions);
    char **children = xs_directory(xs, XBT_NULL, path, &child_count);
    for (unsigned int i = 0; i < child_count; i++) {
        char child[4096];
        snprintf(child, sizeof child, "%s/%s", strcmp(path, "/") == 0 ? "" : path, children[i]);
        save_node(xs, file, child);
    }
    free(children);
}

int store_save(const char *name)
{
    FILE *file = fopen(name, "we");
    if (file == NULL) return complain("create", name);
    struct xs_handle *xs = xs_open(0);
    if (xs != NULL) save_node(xs, file, "/");
    int rc = xs == NULL ? complain("connect to", "xenstored") : 0;
    if (xs != NULL) xs_close(xs);
    bool failed = ferror(file);
    return fclose(file) != 0 || failed ? complain("write", name) : rc;
}

/* Writes the next node of the file. Returns 1 at the end of the file, -1 on failure. */
static int load_node(struct xs_handle *xs, xs_transaction_t transaction, FILE *file)
{
    uint32_t path_length, permission_bytes = 0, value_length = 0;
    int rc = 0;
    char *path = get_block(file, &path_length);
    if (path == NULL) return 1;
    struct xs_permissions *permissions = get_block(file, &permission_bytes);
    void *value = get_block(file, &value_length);
    if (permissions == NULL || value == NULL ||
        !xs_write(xs, transaction, path, value, value_length) ||
        !xs_set_permissions(xs, transaction, path, permissions, permission_bytes / sizeof *permissions))
        rc = complain("write", path);
    free(path);
    free(permissions);
    free(value);
    return rc;
}

int store_load(const char *name)
{
    FILE *file = fopen(name, "re");
    if (file == NULL) return complain("open", name);
    struct xs_handle *xs = xs_open(0);
    int rc = xs == NULL ? complain("connect to", "xenstored") : 0;
    while (rc == 0) {
        xs_transaction_t transaction = xs_transaction_start(xs);
        rewind(file);
        do rc = load_node(xs, transaction, file);
        while (rc == 0);
        bool committed = xs_transaction_end(xs, transaction, rc < 0);
        if (rc < 0 || committed) break;
        rc = errno == EAGAIN ? 0 : complain("commit", "a transaction");
    }
    if (xs != NULL) xs_close(xs);
    fclose(file);
    return rc < 0 ? -1 : 0;
}
