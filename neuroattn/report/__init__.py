"""Tables, figures, brain maps and the self-contained HTML report."""

from neuroattn.names import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "attention_figure": "attention_figures",
        "attention_mass": "object_mass",
        "best_heads": "object_mass",
        "capacity_figure": "capacities",
        "comparison_table": "table",
        "display_table": "table",
        "gate_figure": "figures",
        "object_attention": "routing",
        "object_attention_figure": "routing",
        "png": "style",
        "print_table": "table",
        "query_masks": "object_mass",
        "roi_bars": "figures",
        "roi_group": "labels",
        "score_histogram": "figures",
        "standard_figures": "gallery",
        "summary_table": "table",
        "surface_picture": "surface",
        "surface_values": "surface",
        "token_coverage": "object_mass",
        "voxel_scatter": "figures",
        "why_no_maps": "brain_maps",
        "why_no_surface": "surface",
        "write_maps": "brain_maps",
        "write_report": "html",
    },
)
