//! One self-contained HTML page of tables and plots: no script, no font or file from elsewhere, light and dark.

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c1c1e;--soft:#5f6368;--line:#dadce0;--back:#fff;--best:#0b6e4f}\
@media(prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#9aa0a6;--line:#3c4043;--back:#17181a;--best:#6fd6ab}}\
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--back);max-width:60rem;margin:2rem auto;\
padding:0 1rem}\
table{border-collapse:collapse;margin:.5rem 0 1.5rem;font-variant-numeric:tabular-nums}\
caption{text-align:left;font-weight:600;padding:.25rem 0}\
th,td{padding:.3rem .8rem;border-bottom:1px solid var(--line);text-align:left}\
th.n,td.n{text-align:right}td.by,p.note{color:var(--soft);font-size:.85em}td.best{font-weight:600;color:var(--best)}\
.wide{overflow-x:auto}svg{max-width:100%;height:auto;margin:1rem 0}\
.case{border-top:1px solid var(--line)}.side{display:flex;gap:1rem;flex-wrap:wrap}.side dl{flex:1;min-width:18rem;\
margin:0}dt{color:var(--soft);font-size:.85em}dd{margin:0 0 .6rem;white-space:pre-wrap;overflow-wrap:anywhere}";

/// A page from finished fragments ([`crate::table::ResultTable::to_html_fragment`], [`crate::plot::LinePlot::to_svg`]),
/// which are put in as they are. The title is escaped.
pub fn page<S: AsRef<str>>(title: &str, fragments: &[S]) -> String {
    let title = escape(title);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n<title>{title}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
    );
    for fragment in fragments {
        page.push_str(fragment.as_ref());
        page.push('\n');
    }
    page.push_str("</body>\n</html>\n");
    page
}

/// Text for element content or a quoted attribute, of HTML or SVG. Control characters that XML forbids are dropped.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\t' | '\n' | '\r' => out.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => {}
            c => out.push(c),
        }
    }
    out
}
