/* What `mux import` is checked against: libconfig and the C library's fnmatch(3).
 *
 *   oracle libconfig   reads "LENGTH\n" and so many bytes, again and again; prints what
 *                      libconfig makes of each, and a line "end"
 *   oracle file PATH   the same for a file, so that its includes are followed
 *   oracle fnmatch     reads lines "PATTERN NAME" in hexadecimal; prints 1 or 0 for each
 */
#include <fnmatch.h>
#include <libconfig.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void hex(const char *text)
{
    for (; *text; text++)
        printf("%02x", (unsigned char)*text);
}

static void print(config_setting_t *setting, int depth)
{
    const char *name = config_setting_name(setting);
    double value;
    uint64_t bits;
    int i;

    printf("%d %s ", depth, name ? name : "-");
    switch (config_setting_type(setting)) {
    case CONFIG_TYPE_BOOL:
        printf("bool %d\n", config_setting_get_bool(setting));
        return;
    case CONFIG_TYPE_INT:
        printf("int %d\n", config_setting_get_int(setting));
        return;
    case CONFIG_TYPE_INT64:
        printf("long %lld\n", config_setting_get_int64(setting));
        return;
    case CONFIG_TYPE_FLOAT:
        value = config_setting_get_float(setting);
        memcpy(&bits, &value, sizeof bits);
        printf("float %016llx\n", (unsigned long long)bits);
        return;
    case CONFIG_TYPE_STRING:
        printf("string ");
        hex(config_setting_get_string(setting));
        printf("\n");
        return;
    case CONFIG_TYPE_ARRAY:
        printf("array\n");
        break;
    case CONFIG_TYPE_LIST:
        printf("list\n");
        break;
    default:
        printf("group\n");
    }
    for (i = 0; i < config_setting_length(setting); i++)
        print(config_setting_get_elem(setting, i), depth + 1);
}

static void result(config_t *config, int ok)
{
    if (ok)
        print(config_root_setting(config), 0);
    else
        printf("error %d %s\n", config_error_line(config), config_error_text(config));
    printf("end\n");
    config_destroy(config);
}

static void unhex(char *text)
{
    char *out = text;
    char pair[3] = "";
    for (; text[0] && text[1]; text += 2) {
        memcpy(pair, text, 2);
        *out++ = (char)strtol(pair, NULL, 16);
    }
    *out = 0;
}

int main(int argc, char **argv)
{
    config_t config;
    size_t length;
    static char pattern[4096], name[4096];

    if (argc == 3 && !strcmp(argv[1], "file")) {
        config_init(&config);
        result(&config, config_read_file(&config, argv[2]));
        return 0;
    }
    if (argc == 2 && !strcmp(argv[1], "libconfig")) {
        while (scanf("%zu", &length) == 1) {
            char *text = calloc(length + 1, 1);
            getchar();
            if (!text || fread(text, 1, length, stdin) != length)
                return 1;
            config_init(&config);
            result(&config, config_read_string(&config, text));
            free(text);
        }
        return 0;
    }
    if (argc == 2 && !strcmp(argv[1], "fnmatch")) {
        /* "2d" stands before each, so that none is empty. */
        while (scanf("%4095s %4095s", pattern, name) == 2) {
            unhex(pattern);
            unhex(name);
            printf("%d\n", fnmatch(pattern + 1, name + 1, 0) == 0);
        }
        return 0;
    }
    return 2;
}
